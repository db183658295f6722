// What a reader with a screen reader, or weak eyes, would stumble over: run in the page by test_dashboard_browser.py.
({
  // What can be reached or looked at, and has no name.
  nameless: () => [...document.querySelectorAll('a, button, input, [role=img], [role=region], table, img')].filter(e => {
  if (!e.checkVisibility()) return false;
  const by = (e.getAttribute('aria-labelledby') || '').split(' ').map(id => document.getElementById(id)?.textContent || '').join('');
  const label = e.id && document.querySelector(`label[for=${e.id}]`);
  return !(e.getAttribute('aria-label') || by || e.textContent.trim() || label || e.hasAttribute('alt') || e.caption);
}).map(e => e.outerHTML.slice(0, 120)),

  // Text whose contrast is below 4.5 : 1, or 3 : 1 where it is large (WCAG 2.2, 1.4.3).
  pale: () => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  const rgb = (colour, below) => { pen.fillStyle = below; pen.fillRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return pen.getImageData(0, 0, 1, 1).data; };
  const light = c => { const [r, g, b] = [...c].slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { const above = []; for (let at = e; at; at = at.parentElement) above.unshift(getComputedStyle(at).backgroundColor);
    return above.reduce((below, colour) => `rgb(${[...rgb(colour, below)].slice(0, 3).join(',')})`, 'white'); };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility({ opacityProperty: true }) || e.closest('.hidden, .skip, svg, noscript')) continue;
    const below = ground(e), a = light(rgb(getComputedStyle(e).color, below)), b = light(rgb(below, below));
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const size = parseFloat(getComputedStyle(e).fontSize);
    if (contrast < (size >= 24 ? 3 : 4.5)) found.push(`${contrast.toFixed(2)} ${e.className} ${e.textContent.slice(0, 40)}`);
  }
  return found;
},

  // Ids that are there twice.
  twice: () => [...document.querySelectorAll("[id]")].map(e => e.id).filter((id, n, all) => all.indexOf(id) !== n),
})
