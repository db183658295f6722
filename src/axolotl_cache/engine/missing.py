"""What an Axolotl YAML asks for and this machine has not: said before a long load ends in an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from axolotl_cache.engine import sources
from axolotl_cache.engine.choices import Hardware


def what_is_missing(
    axolotl: Mapping[str, Any], *, config_path: Path, hardware: Hardware | None = None
) -> Iterator[str]:
    """Yield a sentence for each thing that is missing; fetches and loads nothing.

    Args:
        axolotl: the YAML.
        config_path: the YAML's path; a relative `base_model` counts from the working directory, then from it.
        hardware: what the machine can do; by default it is asked.
    """
    name = str(axolotl.get("base_model") or "")
    if name and not _is_here(name, config_path):
        yield (
            f"base_model {name} is not on this machine: Axolotl will fetch it from the Hugging Face hub, "
            "with a network, and for some models your acceptance of their licence and `hf auth login`"
        )
    needs = [key for key in ("load_in_4bit", "load_in_8bit", "flash_attention") if axolotl.get(key)]
    hardware = hardware if hardware is not None else Hardware.detect()
    if needs and hardware.device_type == "cpu":
        yield f"no GPU was found, and `{'`, `'.join(needs)}` is made for one: this may fail, or be very slow"


def _is_here(name: str, config_path: Path) -> bool:
    if sources.find_path(name, config_path) is not None:
        return True
    folder = sources.cached_folder(name) if sources.HUB_ID.match(name) else None
    return folder is not None and bool(sources.weight_files(folder) or sources.gguf_files(folder))
