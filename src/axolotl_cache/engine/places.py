"""What `load_model` was given, and where the files are that it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_cache.engine import sources
from axolotl_cache.engine.choices import Hardware
from axolotl_cache.engine.digest import DigestMemo
from axolotl_cache.engine.gguf import converted_copy
from axolotl_cache.errors import ModelLoadError

Report = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that `load_model` was given."""

    axolotl: Mapping[str, Any]
    config_path: Path
    model_overrides: Mapping[str, Any]
    environment_tag: str
    cache_version: str
    report: Report
    memo: DigestMemo
    hardware: Hardware
    packed: bool

    def get(self, *keys: str) -> Any:
        """Return the value of the first of these keys that is set; Axolotl knows some under two names."""
        return next((self.axolotl[key] for key in keys if self.axolotl.get(key) is not None), None)

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit on the hub, of the model and of what comes with it; adapters have none."""
        return self.get("revision_of_model", "model_revision")  # type: ignore[no-any-return]  # a YAML value

    def find_folder(self, name: str, key: str, **arguments: Any) -> Path:
        """Return the local folder or file of a name in the YAML."""
        return sources.find_folder(name, key, config_path=self.config_path, report=self.report, **arguments)


@dataclass(frozen=True)
class Places:
    """Where everything lies on this machine."""

    model: Path
    config: Path
    tokenizer: Path
    adapter: Path | None
    gguf: Path | None

    def watched(self, trust_remote_code: bool) -> Iterator[Path]:
        """Yield every file whose bytes decide what the model says, also those that are not there."""
        yield from sources.weight_files(self.model)
        for folder in {self.model, self.config}:
            yield from (folder / name for name in sources.CONFIG_FILES)
            if trust_remote_code:
                yield from sorted(folder.glob("*.py"))
        for folder in {self.model, self.tokenizer}:
            yield from (folder / name for name in sources.TOKENIZER_FILES)
        if self.adapter is not None:
            yield from adapter_files(self.adapter)
        if self.gguf is not None:
            yield self.gguf


def adapter_files(folder: Path) -> tuple[Path, ...]:
    """Return the adapter's configuration and what its weights may be called, there or not."""
    return tuple(folder / name for name in (sources.ADAPTER_CONFIG, *sources.ADAPTER_WEIGHTS))


def find_places(recipe: Recipe) -> Places:
    """Return where everything lies; what is on the hub is fetched, and a GGUF file converted.

    Raises:
        ModelLoadError: something is not there; the message says where it was looked for.
    """
    name = recipe.get("base_model")
    if not name:
        raise ModelLoadError("base_model is missing: name the folder, GGUF file or hub id of the model.")
    model, gguf = _find_model(recipe, str(name))
    config = _find_beside(recipe, "base_model_config", model, ("config.json",))
    tokenizer = _find_beside(recipe, "tokenizer_config", config, sources.TOKENIZER_FILES)
    return Places(model, config, tokenizer, _find_adapter(recipe), gguf)


def _find_model(recipe: Recipe, name: str) -> tuple[Path, Path | None]:
    """Return the folder to load from, and the GGUF file that it was made of."""
    wanted = (recipe.get("overrides_of_model_kwargs", "model_kwargs") or {}).get("gguf_file")
    patterns = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.py"]
    place = recipe.find_folder(
        name,
        "base_model",
        revision=recipe.revision,
        patterns=[wanted] if wanted else patterns,
        is_complete=lambda folder: (
            (folder / wanted).is_file()
            if wanted
            else bool(sources.weight_files(folder) or sources.gguf_files(folder))
        ),
    )
    gguf = _find_gguf(place, wanted)
    if gguf is not None:
        return converted_copy(gguf, memo=recipe.memo, report=recipe.report), gguf
    _check_folder(place)
    return place, None


def _find_gguf(place: Path, wanted: str | None) -> Path | None:
    if place.is_file():
        if place.suffix == ".gguf":
            return place
        raise ModelLoadError(f"base_model: {place} is a file; name the folder it is in, or a .gguf file.")
    if wanted:
        return place / wanted
    found = sources.gguf_files(place)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelLoadError(f"base_model: {place} holds several GGUF files ({names}). Name one of them.")
    return found[0] if found else None


def _check_folder(folder: Path) -> None:
    adapter = folder / sources.ADAPTER_CONFIG
    if adapter.is_file():
        raise ModelLoadError(
            f"base_model: {folder} holds an adapter. Write the model that it was trained on in base_model, "
            f"and `adapter: lora` with `lora_model_dir: {folder}`."
        )
    if not sources.weight_files(folder):
        raise ModelLoadError(
            f"base_model: {folder} holds no complete weights (model.safetensors, pytorch_model.bin, their "
            "shards, or a .gguf file)."
        )


def _find_beside(recipe: Recipe, key: str, default: Path, files: tuple[str, ...]) -> Path:
    name = recipe.get(key)
    if not name or name == recipe.get("base_model"):
        return default
    return recipe.find_folder(
        str(name),
        key,
        revision=recipe.revision,
        patterns=["*.json", "*.jinja", "*.model", "*.txt", "*.py"],
        is_complete=lambda folder: any((folder / file).is_file() for file in files),
    )


def _find_adapter(recipe: Recipe) -> Path | None:
    adapter, name = recipe.get("adapter"), recipe.get("lora_model_dir")
    if not adapter:
        return None
    if adapter not in ("lora", "qlora"):
        raise ModelLoadError(f"adapter: {adapter} is not supported here; lora and qlora are.")
    if not name:
        raise ModelLoadError(_no_adapter_named(recipe, str(adapter)))
    folder = recipe.find_folder(
        str(name),
        "lora_model_dir",
        revision=None,
        patterns=["adapter_*"],
        is_complete=lambda place: any(file.is_file() for file in adapter_files(place)[1:]),
    )
    if not (folder / sources.ADAPTER_CONFIG).is_file():
        raise ModelLoadError(
            f"lora_model_dir: {folder} holds no {sources.ADAPTER_CONFIG}.{_adapters_in(folder)}"
        )
    return folder


def _no_adapter_named(recipe: Recipe, adapter: str) -> str:
    said = (
        f"adapter: {adapter} without lora_model_dir. Axolotl does not take the adapter from output_dir: it "
        "would attach a fresh, untrained one and say nothing."
    )
    output = sources.find_path(str(recipe.get("output_dir") or ""), recipe.config_path)
    if output is not None and (output / sources.ADAPTER_CONFIG).is_file():
        return f"{said} output_dir holds one: write `lora_model_dir: {recipe.get('output_dir')}`."
    held = _adapters_in(output) if output is not None and recipe.get("output_dir") else ""
    return f"{said} Write where the trained adapter is in lora_model_dir, or take `adapter` out.{held}"


def _adapters_in(folder: Path) -> str:
    found = list(folder.glob(f"*/{sources.ADAPTER_CONFIG}")) if folder.is_dir() else []
    if not found:
        return ""
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    return f" The newest one below it is {newest.parent}."
