"""The model "gpt2fast" for lm-evaluation-harness; importing this registers it.

On the command line, with the harness's own options:

    python -m gpt2fast.lm_eval --model gpt2fast --model_args pretrained=tales --tasks lambada_openai

From Python, after `import gpt2fast.lm_eval`:

    lm_eval.simple_evaluate("gpt2fast", {"pretrained": "tales"}, tasks=["lambada_openai"])
"""

try:
    import lm_eval.api.model  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'gpt2fast.lm_eval needs lm-evaluation-harness: pip install "gpt2fast[lm-eval]" ({error})'
    ) from None

from gpt2fast.lm_eval.model import HarnessModel

__all__ = ["HarnessModel"]
