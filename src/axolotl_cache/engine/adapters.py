"""Several LoRA adapters over one base model, loaded and reloaded while it answers.

An adapter is a set of layers, made by PEFT on a copy of the model's module tree that shares every weight.
The model itself is not touched by loading: `use` puts an adapter's layers where the base's own stand, and
takes them out again, so that the base model runs without a trace of any of them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from axolotl_cache.engine.adapter_layers import LayerTree
from axolotl_cache.engine.digest import (
    ATTEMPTS,
    DigestMemo,
    FileStamp,
    combine,
    differing,
    digest_file,
    stamps_of,
)
from axolotl_cache.engine.places import adapter_files
from axolotl_cache.engine.sources import ADAPTER_CONFIG
from axolotl_cache.errors import ModelLoadError, RequestError
from axolotl_cache.namespace import Namespace

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_UNTOUCHED: Final = "none"

_CHANGES_BASE: Final = "it changes weights of the base model, which all adapters share"
_VARIANTS: Final = {
    "alora_invocation_tokens": "as an activated LoRA it acts from certain tokens on, and a prefix can't be "
    "reused under it",
    "arrow_config": "it mixes other adapters",
    "kasa_config": _CHANGES_BASE,
    "layer_replication": "it repeats layers of the base model",
    "megatron_config": "it is meant for Megatron",
    "monteclora_config": "it is not plain LoRA",
    "use_bdlora": "it is not plain LoRA",
    "use_qalora": "it is not plain LoRA",
    "velora_config": "it is not plain LoRA",
}
_KEEPS_BASE: Final = ("gaussian", "eva", "orthogonal")
"""Ways to begin training that leave the base model's weights as they are; the others, as PiSSA or LoftQ,
take their beginning out of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One adapter as it was loaded. It never changes: a reload makes another one.

    Whoever holds it may go on using it, also after its name has gone to another or to none; its memory is
    free when nobody holds it any more.
    """

    name: str
    """Empty for the model as it was given."""
    digest: str
    """Of the files that were loaded; the namespace's `adapter`."""
    folder: Path | None = None
    nbytes: int = 0
    """Memory of its own weights."""
    stamps: Mapping[Path, FileStamp | None] = field(default_factory=dict, repr=False)
    """Its files as they were when they were read."""
    layers: Mapping[str, nn.Module] = field(default_factory=dict, repr=False)
    """What stands in place of the base model's modules, by their path there."""


class Adapters:
    """The adapters of one model, by name.

    "" is the model as it was given, with the adapter that it came with, if any; None is the base model
    alone, whose results are then bit for bit those of a model that never had an adapter.

    Loading works on the side and takes none of the engine's time but the processor's. Only `use` changes
    the model: call it from the one thread that runs it, before each pass. A request keeps the `Adapter`
    that it began with (see `get`), so that a reload in the midst of an answer mixes no weights.

    Args:
        model: a Hugging Face causal LM on its device, or a PeftModel around one.
        namespace: of this model as it was given.
        dtype: that the adapters are to compute in; by default the model's.
        memo: remembers digests of files; by default in the user's cache folder.
        report: gets a line when something takes its time.

    Raises:
        ModelLoadError: the adapter that the model came with can't be told apart from its base.
    """

    def __init__(
        self,
        model: Any,
        namespace: Namespace,
        *,
        dtype: torch.dtype | None = None,
        memo: DigestMemo | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        came_with = getattr(model, "peft_config", None) or {}
        for config in came_with.values():
            _refuse_kind(config, "The model's own adapter")
        self.namespace = namespace
        self._tree = LayerTree(model.get_base_model() if hasattr(model, "get_base_model") else model)
        self._dtype = dtype if dtype is not None else model.dtype
        self._memo = memo if memo is not None else DigestMemo()
        self._report = report
        if any(getattr(layer, "merged_adapters", ()) for layer in self._tree.own.values()):
            raise ModelLoadError(
                "The model's own adapter is merged into it: unmerge it, or merge it for good."
            )
        self._given = Adapter("", namespace.adapter, layers=self._tree.own)
        # A model named by its tensors in memory has its adapter in the digest of its weights.
        unnamed = bool(self._tree.own) and not namespace.adapter
        self._base = Adapter("", _UNTOUCHED if unnamed else "")
        self._loaded: dict[str, Adapter] = {}
        self._loading = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that requests may use, sorted, without the empty one."""
        return tuple(sorted(self._loaded))

    def get(self, name: str | None) -> Adapter:
        """Return the adapter that goes by this name now.

        Raises:
            RequestError: there is none.
        """
        if name is None:
            return self._base
        if name == "":
            return self._given
        found = self._loaded.get(name)
        if found is None:
            known = ", ".join(self.names) or "none"
            raise RequestError(f"there is no adapter {name!r}; loaded: {known}")
        return found

    def load(self, name: str, folder: str | Path) -> Adapter:
        """Load the adapter in `folder` under this name; one that had it is replaced when that is done.

        Cost: the files are read, and for their digest once more unless the memo knows it.

        Args:
            name: letters, digits, and any of `-_.`.
            folder: as PEFT's `save_pretrained` writes it.

        Raises:
            RequestError: the name is not of this kind.
            ModelLoadError: the folder holds no adapter that fits this model; what was loaded stays.
        """
        if not _NAME.fullmatch(name):
            raise RequestError(f"{name!r} can't name an adapter: use letters, digits and any of - _ .")
        with self._loading:
            adapter = self._read(name, Path(folder).expanduser().absolute())
            self._loaded[name] = adapter
        return adapter

    def reload(self, name: str) -> Adapter:
        """Load an adapter once more from its folder; until that is done, the old one answers.

        Raises:
            RequestError: there is no such adapter.
            ModelLoadError: as `load`; the old one stays.
        """
        folder = self.get(name).folder
        if folder is None:
            raise RequestError("the model's own adapter is reloaded with the model")
        return self.load(name, folder)

    def unload(self, name: str) -> None:
        """Forget an adapter. Answers that have begun with it end with it.

        Raises:
            RequestError: there is no such adapter.
        """
        with self._loading:
            if self.get(name).folder is None:
                raise RequestError("the model's own adapter can't be unloaded; load the base model alone")
            del self._loaded[name]

    def digest(self, name: str | None) -> str:
        """Return the digest of what is loaded under this name. Raises RequestError if there is none."""
        return self.get(name).digest

    def changed_files(self, name: str) -> tuple[Path, ...]:
        """Return the adapter's files that were written, replaced, made or removed since it was loaded."""
        return differing(self.get(name).stamps)

    def namespace_for(self, adapter: Adapter | str | None, within: Namespace | None = None) -> Namespace:
        """Return the namespace of what the model says with an adapter.

        It is the one that the model would have had if the YAML had named the adapter, so that both share
        their entries.

        Args:
            adapter: one that `get` returned, or its name.
            within: a namespace of the model as it was given; by default the one that was given with it.

        Raises:
            RequestError: there is no adapter of this name.
        """
        namespace = within if within is not None else self.namespace
        found = self._resolved(adapter)
        return namespace if found is self._given else replace(namespace, adapter=found.digest)

    def use(self, adapter: Adapter | str | None) -> None:
        """Make the model compute with this adapter, and no other, from the next pass on.

        Changes: modules in the model's tree; `use("")` puts them all back. Cost: 10 to 20
        microseconds for 210 layers, and nothing if it is in use already.

        Raises:
            RequestError: there is no adapter of this name.
        """
        self._tree.put(self._resolved(adapter).layers)

    def _resolved(self, adapter: Adapter | str | None) -> Adapter:
        return adapter if isinstance(adapter, Adapter) else self.get(adapter)

    def _read(self, name: str, folder: Path) -> Adapter:
        config, *weights = adapter_files(folder)
        if not config.is_file():
            raise ModelLoadError(
                f"adapter {name}: {folder} holds no {ADAPTER_CONFIG}. Name the folder that the training "
                "saved the adapter in."
            )
        if not any(file.is_file() for file in weights):
            raise ModelLoadError(f"adapter {name}: {folder} holds no {weights[0].name}.")
        files = [config, *weights]
        for _ in range(ATTEMPTS):
            stamps = stamps_of(files)
            digests = [digest_file(path, memo=self._memo) for path in files if path.is_file()]
            layers, nbytes = self._build(name, folder)
            if not differing(stamps):
                # The same as for an adapter in the YAML: see `digest_adapter`.
                digest = combine("adapter", [[Path(d.stamp.path).name, d.digest] for d in digests])
                return Adapter(name, digest, folder, nbytes, stamps, layers)
            self._report(f"adapter {name}: {folder} was written to while it was loaded: loading again")
        raise ModelLoadError(
            f"adapter {name}: {folder} was written to while it was loaded, {ATTEMPTS} times. Load it when "
            "the training has saved it."
        )

    def _build(self, name: str, folder: Path) -> tuple[dict[str, nn.Module], int]:
        """Return the layers of the adapter in a folder, and the bytes of their own weights."""
        from peft import PeftConfig, load_peft_weights  # slow to import, and most models have no adapter

        try:
            config = PeftConfig.from_pretrained(str(folder))
        except Exception as error:
            raise ModelLoadError(
                f"adapter {name}: {folder / ADAPTER_CONFIG} can't be read: {error}"
            ) from error
        _refuse_kind(config, f"adapter {name}: the adapter in {folder}")
        # What training began with is overwritten by what it ended with.
        config.inference_mode, config.init_lora_weights, config.lora_dropout = True, False, 0.0
        try:
            weights = load_peft_weights(str(folder), device="cpu")
            return self._tree.layers(config, weights, self._dtype)
        except ModelLoadError as error:
            raise ModelLoadError(f"adapter {name}: {error}") from error
        except Exception as error:
            # PEFT and safetensors have no errors of their own; whatever it is, this adapter does not load.
            said = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ModelLoadError(
                f"adapter {name}: the adapter in {folder} does not load on this model: {said}"
            ) from error


def _refuse_kind(config: Any, subject: str) -> None:
    """Raise ModelLoadError for an adapter that is more than a change of its own to some layers' results."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    why = ""
    if config.is_prompt_learning or getattr(config, "is_adaption_prompt", False):
        why = "it puts learned vectors before the prompt, where a prefix in the cache has none"
    elif kind != "LORA":
        why = "only LoRA is served here, with DoRA and rsLoRA"
    elif getattr(config, "bias", "none") != "none":
        why = f"it was trained with bias: {config.bias}, and {_CHANGES_BASE}"
    elif (begin := getattr(config, "init_lora_weights", True)) not in (True, False, None, *_KEEPS_BASE):
        why = f"it was trained from init_lora_weights: {begin}, and {_CHANGES_BASE}; convert it to plain LoRA"
    else:
        why = next((said for name, said in _VARIANTS.items() if getattr(config, name, None)), "")
    if why:
        raise ModelLoadError(
            f"{subject} is of kind {kind} and can't be served beside others: {why}. Merge it into a model of "
            "its own, or train it as plain LoRA."
        )
