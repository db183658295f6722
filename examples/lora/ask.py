"""Asks questions through Axolotl's own loader and `model.generate`: twice with the cache, once without.

    python ask.py lora.yaml [--lora-model-dir=FOLDER | --adapter=] question ...

The last line of standard output is a JSON list: for each question the answers, that of the model alone, and
which tier served. Run by retrain.py, in a process of its own each time, as a user would.
"""

import json
import sys

from axolotl.cli.config import load_cfg
from axolotl.cli.utils import load_model_and_tokenizer

NEW_TOKENS = 24


def main() -> None:
    flags = dict(word[2:].split("=", 1) for word in sys.argv[2:] if word.startswith("--"))
    questions = [word for word in sys.argv[2:] if not word.startswith("--")]
    overrides = {name.replace("-", "_"): value or None for name, value in flags.items()}
    cfg = load_cfg(sys.argv[1], inference=True, use_prefix_cache=True, **overrides)
    model, tokenizer, _ = load_model_and_tokenizer(cfg=cfg, inference=True)
    model = model.to(cfg.device, dtype=cfg.torch_dtype).eval()
    cached = model.generate

    def ask(generate, question):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"].to(cfg.device)
        settings = {
            "max_new_tokens": NEW_TOKENS,
            "do_sample": False,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        found = generate(inputs=ids, **settings)[0, ids.shape[1] :]
        return tokenizer.decode(found, skip_special_tokens=True).strip()

    told = []
    for question in questions:
        answers, served = [], []
        for _ in range(2):
            before = dict(cached.totals.served)
            answers.append(ask(cached, question))
            served += [kind.value for kind, n in cached.totals.served.items() if n > before.get(kind, 0)]
        told.append(
            {
                "question": question,
                "cached": answers,
                "alone": ask(cached.generate, question),
                "served": served,
            }
        )
    print(json.dumps(told))


if __name__ == "__main__":
    main()
