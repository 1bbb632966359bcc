"""A server under load: is every answer its own variant's, how long do answers take, does memory stay flat?

`python benchmarks/load.py encoder|decoder [--folder DIR] [--base DIR] [--variants 8] [--requests 2000] [--clients 8]`

`deltagram serve` runs in a process of its own on a library of deltas at keep 1 %. Clients ask any of the variants at
random over HTTP; each answer is compared with what the restored checkpoint gives alone (class probabilities to 1e-3;
texts of 16 tokens, greedy). Meanwhile another client unloads and loads variants all the time, and `--memory` holds only
half of them. The encoder is all-MiniLM-L6-v2 (from a package), the decoder what `--base` names, such as SmolLM2-135M as
`deltagram reproduce darex` writes it. A variant's every tensor was moved by noise of its own seed.

A text that differs from the restored model's in its own variant is counted apart from one that is another variant's: in
a batch sums are rounded in another order, and the likeliest token can change where two are nearly as likely.
"""

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from deltagram import jobs
from deltagram.data.packages import minilm
from measure import options, workplace

SPREAD = {"encoder": 0.01, "decoder": 0.004}
TOKENS, LABELS = 16, 4
TEXTS = (
    "In the beginning", "And the king said unto his", "The capital of France is", "My card has not arrived yet",
    "a film of great beauty and little sense", "shares rose sharply after the report", "Blessed are the",
    "I would like to know how much it costs to send money abroad and how long it will take to arrive there",
)  # fmt: skip
ADMIN = "load-test-key"
Expected = Mapping[tuple[str, str], Any]


@dataclass(eq=False)
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: str, seconds: float, tokens: int) -> None:
        with self.lock:
            self.outcomes[outcome] += 1
            self.seconds.append(seconds)
            self.tokens += tokens


def model_of(kind: str, folder: Path) -> Any:
    auto: Any = transformers.AutoModelForCausalLM
    if kind == "encoder":
        auto = transformers.AutoModelForSequenceClassification
        return auto.from_pretrained(folder, num_labels=LABELS).eval()
    return auto.from_pretrained(folder).eval()


def made(kind: str, folder: Path, base: Path, *, count: int) -> tuple[Path, Expected]:
    """A library of variants, and what each restored checkpoint answers to each text."""
    library, notes = folder / f"library-{kind}-{count}", folder / f"expected-{kind}-{count}.json"
    if notes.is_file():
        return library, {(name, text): answer for name, text, answer in json.loads(notes.read_text())}
    jobs.library_init(base, library)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    expected: dict[tuple[str, str], Any] = {}
    for seed in range(count):
        name, model = f"variant-{seed}", model_of(kind, base)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=SPREAD[kind])
        model.save_pretrained(folder / "tuned")
        tokenizer.save_pretrained(folder / "tuned")
        jobs.prune(base, folder / "tuned", folder / "delta", keep=0.01, divide_by=0.1, seed=seed, force=True)
        jobs.library_add(library, folder / "delta", name=name)
        jobs.restore(base, folder / "delta", folder / "restored", force=True)
        restored = model_of(kind, folder / "restored")
        for text in TEXTS:
            expected[name, text] = alone(kind, restored, tokenizer, text)
    notes.write_text(json.dumps([[*key, answer] for key, answer in expected.items()]))
    return library, expected


def alone(kind: str, model: Any, tokenizer: Any, text: str) -> Any:
    """What one restored model answers, asked alone."""
    inputs = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        if kind == "encoder":
            return model(**inputs).logits[0].softmax(-1).tolist()
        ids = model.generate(
            **inputs, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0, return_dict_in_generate=False
        )
    return tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def asked(connection: http.client.HTTPConnection, kind: str, name: str, text: str) -> tuple[int, Any]:
    """Status and answer of one request."""
    path, body = "/classify", {"model": name, "input": text}
    if kind == "decoder":
        path, body = "/v1/completions", {"model": name, "prompt": text, "max_tokens": TOKENS, "temperature": 0}
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def judged(kind: str, status: int, answer: Any, name: str, text: str, expected: Expected) -> tuple[str, int]:
    """In a word what an answer was, and its tokens."""
    if status != 200:
        return f"status {status}", 0
    if kind == "decoder":
        found, tokens = answer["choices"][0]["text"], answer["usage"]["completion_tokens"]
        if found == expected[name, text]:
            return "right", tokens
        others = {expected[other, text] for other, _ in expected if other != name}
        return ("another variant's" if found in others else "differs from alone"), tokens
    scores, usage = scores_of(answer), answer["usage"]["total_tokens"]
    near = {
        other for (other, asked_text), wanted in expected.items() if asked_text == text and apart(scores, wanted) < 1e-3
    }
    return ("right" if name in near else "another variant's" if near else "differs from alone"), usage


def scores_of(answer: Any) -> list[float]:
    scores = answer["data"][0]["scores"]
    return [scores[f"LABEL_{i}"] for i in range(LABELS)]


def apart(found: Sequence[float], wanted: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(found, wanted, strict=True))


def client(kind: str, port: int, expected: Expected, tally: Tally, *, requests: int, seed: int) -> None:
    """Ask for variants at random, one request after another on one connection."""
    draw, connection = random.Random(seed), http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    keys = list(expected)
    for _ in range(requests):
        name, text = draw.choice(keys)
        start = time.perf_counter()
        try:
            status, answer = asked(connection, kind, name, text)
            outcome, tokens = judged(kind, status, answer, name, text, expected)
        except (OSError, http.client.HTTPException) as fault:
            outcome, tokens = type(fault).__name__, 0
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        tally.add(outcome, time.perf_counter() - start, tokens)


def mover(port: int, names: Sequence[str], stop: threading.Event, moved: Counter[str], every: float) -> None:
    """Unload or load a variant every so many seconds until told to stop."""
    draw = random.Random(0)
    while not stop.wait(every):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        what = draw.choice(("load", "unload"))
        connection.request(
            "POST", f"/v1/variants/{draw.choice(names)}/{what}", headers={"Authorization": f"Bearer {ADMIN}"}
        )
        moved[f"{what} {connection.getresponse().status}"] += 1
        connection.close()


def anonymous(pid: int) -> int:
    """Anonymous memory of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def served(library: Path, *, memory: int) -> tuple[subprocess.Popen[str], int]:
    """A server on a free port, once it is ready."""
    command = [sys.executable, "-m", "deltagram", "serve", str(library), "--port", "0", "--memory", str(memory)]
    environment = os.environ | {"DELTAGRAM_ADMIN_KEY": ADMIN}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stderr or ():
        if "serving at" in line:
            return process, int(line.strip().rstrip("/").rpartition(":")[2])
    sys.exit("the server did not start")


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def run(kind: str, library: Path, expected: Expected, given: argparse.Namespace) -> None:
    names = sorted({name for name, _ in expected})
    sizes = [sum(f.stat().st_size for f in p.rglob("*.safetensors")) for p in (library / "payloads").iterdir()]
    process, port = served(library, memory=given.memory * sum(sizes))
    tally, moved, stop = Tally(), Counter[str](), threading.Event()
    moving = threading.Thread(target=mover, args=(port, names, stop, moved, given.every))
    moving.start()
    each, memory, marks = given.requests // given.clients // 10, [], time.perf_counter()
    for tenth in range(10):
        clients = [
            threading.Thread(target=client, args=(kind, port, expected, tally),
                             kwargs={"requests": each, "seed": 1000 * tenth + number})
            for number in range(given.clients)
        ]  # fmt: skip
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        memory.append(anonymous(process.pid))
        print(f"{sum(tally.outcomes.values()):,} asked, {memory[-1] / 1e6:.0f} MB", file=sys.stderr, flush=True)
    took = time.perf_counter() - marks
    stop.set()
    moving.join()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    metrics = connection.getresponse().read().decode()
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    print(f"\n### {len(names)} variants, {kind}, {given.clients} clients\n\n| measured | |\n|---|---|")
    rows = {
        "requests": f"{sum(tally.outcomes.values()):,}",
        **{f"answers: {what}": f"{count:,}" for what, count in tally.outcomes.items()},
        "requests a second": f"{len(tally.seconds) / took:.1f}", "tokens a second": f"{tally.tokens / took:.1f}",
        "p50, p99": f"{statistics.median(tally.seconds):.3f} s, {quantile(tally.seconds, 0.99):.3f} s",
        "anonymous memory after each tenth, MB": ", ".join(f"{value / 1e6:.0f}" for value in memory),
        "loads and unloads meanwhile": ", ".join(f"{k}: {v}" for k, v in sorted(moved.items())),
        "exit code after SIGTERM": str(code),
        "batches": ", ".join(line.split("{")[1].replace("}", "") for line in metrics.splitlines()
                             if line.startswith("deltagram_batches_total{")),
    }  # fmt: skip
    for what, value in rows.items():
        print(f"| {what} | {value} |")


def main() -> None:
    parser = options(__doc__, runs=1)
    parser.add_argument("kind", choices=("encoder", "decoder"))
    parser.add_argument("--base", type=Path, help="the decoder's folder")
    parser.add_argument("--variants", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--memory", type=int, default=12, help="times the files' bytes that variants may take (12: about half of them)"
    )
    parser.add_argument("--every", type=float, default=0.1, help="seconds between loads and unloads (0.1)")
    given = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if given.kind == "decoder" and given.base is None:
        parser.error("a decoder needs --base")
    with workplace(given.folder) as folder:
        base = minilm() if given.kind == "encoder" else given.base
        library, expected = made(given.kind, folder, base, count=given.variants)
        run(given.kind, library, expected, given)


if __name__ == "__main__":
    main()
