// Before anything is drawn, so that nothing flashes: the colours that were chosen here last.
(() => {
  let chosen = "";
  try { chosen = localStorage.getItem("axolotl-theme") || ""; } catch { /* no storage: as the system */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
