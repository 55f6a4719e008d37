"""The options of generation on the command line."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

import gpt2fast
from gpt2fast import cli
from gpt2fast.cli.sampling import sampling_options
from gpt2fast.sampling import Options

LINE = (
    "--preset story --temperature 0.7 --top-k 50 --typical-p 0.9 --top-p 0.95 --min-p 0.01 "
    "--seed 3 --repetition-penalty 1.1 --presence-penalty -0.1 --frequency-penalty 0.2 "
    "--penalty-window 64 --no-repeat-ngram 5 --dry-multiplier 0.8 --dry-base 1.5 "
    "--dry-allowed-length 3 --dry-breaker . --dry-breaker , --logit-bias 5=1.5 "
    "--logit-bias 6=-inf --bad-tokens 7 --bad-tokens 8,9 --forced-tokens 20,21 "
    "--max-new-tokens 12 --min-new-tokens 2 --deadline 60 --stop xyz --stop-tokens 4000,4001 "
    "--ignore-eot --overflow stride --stride 200"
)
OPTIONS: dict[str, Any] = {
    "preset": "story",
    "temperature": 0.7,
    "top_k": 50,
    "typical_p": 0.9,
    "top_p": 0.95,
    "min_p": 0.01,
    "seed": 3,
    "repetition_penalty": 1.1,
    "presence_penalty": -0.1,
    "frequency_penalty": 0.2,
    "penalty_window": 64,
    "no_repeat_ngram": 5,
    "dry_multiplier": 0.8,
    "dry_base": 1.5,
    "dry_allowed_length": 3,
    "dry_breakers": [".", ","],
    "logit_bias": {5: 1.5, 6: -float("inf")},
    "bad_tokens": [[7], [8, 9]],
    "forced_tokens": [20, 21],
    "max_new_tokens": 12,
    "min_new_tokens": 2,
    "deadline": 60.0,
    "stop": ["xyz"],
    "stop_tokens": [4000, 4001],
    "ignore_eot": True,
    "overflow": "stride",
    "stride": 200,
}


def test_all_of_them_arrive() -> None:
    """Catches an option that is not passed on, or that the command line lacks."""
    assert sampling_options(cli.parser().parse_args(["generate", "x", *LINE.split()])) == OPTIONS
    mirostat = ["generate", "x", "--mirostat-tau", "3", "--mirostat-eta", "0.2"]
    given = sampling_options(cli.parser().parse_args(mirostat))
    assert given == {"mirostat_tau": 3.0, "mirostat_eta": 0.2}
    search = ["--num-beams", "4", "--length-penalty", "0.5", "--penalty-alpha", "1"]
    searched = sampling_options(cli.parser().parse_args(["generate", "x", *search]))
    assert searched == {"num_beams": 4, "length_penalty": 0.5, "penalty_alpha": 1.0}
    names = {field.name for field in dataclasses.fields(Options)}
    elsewhere = {"n", "logits_processor", "cancel", "logprobs"}
    assert names == {*OPTIONS, *given, *searched, *elsewhere}
    assert sampling_options(cli.parser().parse_args(["generate", "x"])) == {}


def test_the_text_is_that_of_python(capfd: pytest.CaptureFixture[str]) -> None:
    """Catches another text than `generate` writes with the same options."""
    assert (
        cli.main(["generate", "The king", *LINE.split(), "--json", "--logprobs", "2", "--quiet"])
        == 0
    )
    got = json.loads(capfd.readouterr().out)
    with gpt2fast.load() as model:
        expected = model.generate("The king", logprobs=2, **OPTIONS)
    assert (got["text"], got["tokens"]) == (expected.text, expected.tokens)
    assert json.dumps(got["logprobs"]) == json.dumps(expected.logprobs)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 4}])
def test_searches_are_those_of_python(
    options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches a search that is refused as a stream is, or prints another text."""
    line = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with gpt2fast.load() as model:
        expected = model.generate("The king", max_new_tokens=9, **options)
    command = ["generate", "The king", "--max-new-tokens", "9", *line]
    assert cli.main([*command, "--echo"]) == 0
    out, err = capfd.readouterr()
    assert out == "The king" + expected.text + "\n"
    assert "generated 9 tokens" in err
    assert cli.main([*command, "--json", "--quiet"]) == 0
    got = json.loads(capfd.readouterr().out)
    assert (got["tokens"], got.get("score")) == (expected.tokens, expected.score)


BAD = {
    "--num-beams 4 --temperature 1": "temperature is 1.0; allowed: 0.0, as num_beams is given",
    "--penalty-alpha 0.6": "top_k is 0; allowed: 2 to 256, as penalty_alpha is given",
    "--bad-tokens 1,x": "argument --bad-tokens: invalid token ids value: '1,x'",
    "--logit-bias 5": "argument --logit-bias: invalid ID=AMOUNT value: '5'",
    "--logit-bias 5=1 --logit-bias 5=2": "--logit-bias names a token twice",
    "--logit-bias 5=9999": "logit_bias[5] is 9999.0; allowed: -1000 to 1000, or -inf",
    "--forced-tokens 4096": "forced_tokens is 4096; allowed: an integer from 0 to 4095",
    "--preset wild": "preset is 'wild'; allowed: None, deterministic, balanced, story, code",
    "--mirostat-tau 3 --temperature 0": "temperature is 0; allowed: above 0, as mirostat_tau",
    "--logprobs 2": "--logprobs goes with --json",
}


@pytest.mark.parametrize("line", BAD)
def test_errors_are_one_line(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, a wrong exit status, or an error that does not name its cause."""
    try:
        status: object = cli.main(["generate", "x", *line.split()])
    except SystemExit as exit_:  # argparse
        status = exit_.code
    assert status == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("gpt2fast: error: ")
    assert err.count("\n") == 1
    assert BAD[line] in err
