"""The command line of lm-evaluation-harness, which knows the model "gpt2fast" here."""

from lm_eval.__main__ import cli_evaluate

if __name__ == "__main__":
    cli_evaluate()
