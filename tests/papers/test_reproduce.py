"""The command and what it keeps: records, notes, verdicts, refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deltagram import papers
from deltagram.data.packages import Texts
from deltagram.errors import ExtraError, SettingError
from deltagram.papers.bench import FAST, Bench
from deltagram.papers.claims import Bound, Claim, claims
from deltagram.papers.ledger import Ledger
from deltagram.papers.measured import Checked
from deltagram.papers.notes import Notes
from deltagram.papers.reproduce import check_all, judged, row
from deltagram.papers.tasks import every_class, some
from deltagram.records import Record
from desk import Desk

CLAIM = Claim(
    id="X1", paper="none", statement="More is more", source="nowhere, Table 1", control="less is less",
    settings={"drop": 0.9}, bounds={"gain": Bound(claimed=0.5, least=0.2), "loss": Bound(claimed=0.0, most=0.1)},
)  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(folder=tmp_path, scale=FAST)


@pytest.mark.parametrize(
    ("got", "verdict", "because"),
    [
        ({"gain": 0.2, "loss": 0.1}, "pass", ""),
        ({"gain": 0.1, "loss": 0.0}, "fail", "gain is 0.1, at least 0.2 was asked"),
        ({"gain": 0.1, "loss": 0.2}, "fail", "gain is 0.1, at least 0.2 was asked; loss is 0.2, at most 0.1 was asked"),
        ({"gain": float("nan"), "loss": 0.0}, "fail", "gain is nan, at least 0.2 was asked"),
    ],
)
def test_numbers_decide(bench: Bench, got: dict[str, float], verdict: str, because: str) -> None:
    record = judged(bench, CLAIM, lambda *_: Checked(got=got, spread={"gain": 0.01}, rows=[{"share": 0.2}]))
    assert (record.numbers["verdict"], record.numbers["because"]) == (verdict, because)
    assert record.claimed == {"gain": 0.5, "loss": 0.0}
    assert record.tolerance == {"gain": pytest.approx(0.3), "loss": pytest.approx(0.1)}
    assert record.source == "nowhere, Table 1"
    assert record.settings["drop"] == 0.9
    assert row(record)["got"] == pytest.approx(got, nan_ok=True)


def test_what_is_missing_is_said(bench: Bench) -> None:
    def check(*_: object) -> Checked:
        raise ExtraError("the model", "package m is not installed", fix="pip install m")

    record = judged(bench, CLAIM, check)
    assert record.numbers["verdict"] == "not run here"
    assert record.numbers["because"] == "the model: package m is not installed; pip install m"
    assert record.numbers["got"] == {}


def test_records_are_appended_once(bench: Bench) -> None:
    values = iter([0.3, 0.3, 0.4])
    for _ in range(3):
        check_all(bench, [CLAIM], {"X1": lambda *_: Checked(got={"gain": next(values), "loss": 0.0})})
    found = [record.numbers["got"]["gain"] for record in Ledger(bench.folder / "records.jsonl").records()]
    assert found == [0.3, 0.4]


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "records.jsonl")
    first, second = (Record(job="reproduce", numbers={"got": number}) for number in (1, 2))
    ledger.add(first)
    with ledger.path.open("a") as file:
        file.write(second.line()[:40])
    assert len(list(ledger.records())) == 1
    ledger.add(second)
    assert [record.numbers["got"] for record in ledger.records()] == [1, 2]
    ledger.path.write_text("{}\n" + ledger.path.read_text())
    with pytest.raises(SettingError, match=r"records.jsonl, line 1: is no record; move the file away"):
        list(ledger.records())


def test_a_note_depends_on_all_it_was_made_from(tmp_path: Path) -> None:
    notes, made = Notes(tmp_path / "notes"), []

    def measure(number: float) -> float:
        return notes.once({"q": number}, lambda: made.append(number) or {"score": number})["score"]

    assert [measure(1.0), measure(2.0), measure(1.0)] == [1.0, 2.0, 1.0]
    assert made == [1.0, 2.0]
    notes.path({"q": 1.0}).write_text('{"made_from": ')  # damaged
    assert measure(1.0) == 1.0
    assert made == [1.0, 2.0, 1.0]
    json.loads(notes.path({"q": 1.0}).read_text())


def test_texts_are_drawn_once_for_all_and_classes_are_not_lost() -> None:
    texts = Texts(tuple(f"text {i}" for i in range(50)), tuple(int(i > 46) for i in range(50)))
    few = some(texts, most=10, name="a")
    assert few == some(texts, most=10, name="a") != some(texts, most=10, name="b")
    assert some(texts, most=None, name="a") is some(texts, most=50, name="a") is texts
    assert set(every_class(texts, most=5, classes=2).label) == {0, 1}
    assert len(every_class(texts, most=5, classes=2)) == 5
    with pytest.raises(SettingError, match="1 classes have no text among those set aside"):
        every_class(texts, most=5, classes=3)


def test_another_scale_is_another_record(bench: Bench) -> None:
    check = {"X1": lambda *_: Checked(got={"gain": 0.3, "loss": 0.0})}
    check_all(bench, [CLAIM], check)
    check_all(replace(bench, scale=replace(bench.scale, name="full")), [CLAIM], check)
    assert len(list(Ledger(bench.folder / "records.jsonl").records())) == 2


def test_the_command_prints_a_table_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk.laid(tmp_path, capsys, monkeypatch)
    check = {name: lambda *_: Checked(got={"moderate": 0.9}) for name in claims("darex")}
    one = {"D1": replace(CLAIM, id="D1", bounds={"moderate": Bound(claimed=0.95, least=0.7)})}
    module = papers.reproduce.__globals__
    monkeypatch.setitem(module, "PAPERS", {"darex": check})
    monkeypatch.setitem(module, "claims", lambda _: one)
    out = desk.does("reproduce darex --only D1")
    assert " ".join(out.split()) == "claim source got verdict D1 More is more nowhere, Table 1 moderate 0.9 pass"
    said = json.loads(desk.does("reproduce darex --json"))
    assert said["numbers"]["rows"][0]["verdict"] == "pass"
    assert (tmp_path / "reproduction" / "records.jsonl").exists()
    desk.refuses("reproduce seli", "PAPER: 'seli' is unknown", "expected darex")
    desk.refuses("reproduce darex --only D1,D12", "--only: 'D12' is no claim of darex", "expected D1")
    desk.refuses("reproduce darex --folder base", "exists and was not made by this job")


@pytest.mark.parametrize("paper", papers.PAPERS)
def test_the_page_has_every_claim(paper: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "papers.md").read_text().replace("\\|", "|")
    for claim in claims(paper).values():
        assert f"| {claim.id} | {claim.statement} |" in page
        assert claim.control in page
    assert np.all([claim.source.startswith("arXiv") for claim in claims(paper).values()])
