"""The command line under hostile use: one `error:` paragraph that helps, exit code 1, and nothing touched."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import write_checkpoint
from deltagram.store.checkpoint import open_checkpoint
from desk import Desk, State, base_state, tuned_state

COMMAND = Path(sys.executable).with_name("deltagram")


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk.laid(tmp_path, capsys, monkeypatch)


SHARE = "is outside (0, 1]; give the share of entries to keep, such as 0.01"
POSITIVE = "expected a positive, finite number"
SETTINGS = {
    "--keep 0": ("error: --keep: 0.0 ", SHARE), "--keep -0.5": ("--keep: -0.5 ", SHARE),
    "--keep 1.001": ("--keep: 1.001 ", SHARE), "--keep nan": ("--keep: nan ", SHARE),
    "--method best": ("--method: 'best' is unknown, expected random or bernoulli or", " wanda or", " columns or"),
    "--method wanda": ("--calibration: is missing, and WANDA weighs entries by what goes into each layer, expected",),
    "--method columns-wanda": ("--calibration: is missing",),
    "--method magnitude --calibration p.yaml": ("--calibration: nothing here looks at texts", "give --method wanda or"),
    "--method wanda --calibration nothing.jsonl": ("error: nothing.jsonl: there is no such file",),
    "--columns 0.1": ("--columns: method random chooses no columns; ",),
    "--method columns --columns 0.001": ("--columns: 0.001 is outside [0.01, 1]; give a share of columns",),
    "--method columns --columns 1.5": ("--columns: 1.5 is outside [0.01, 1]",),
    "--method columns --columns nan": ("--columns: nan is outside [0.01, 1]",),
    "--values 9bit": ("--values: '9bit' is unknown, expected f32 or bf16 or f16 or 8bit",),
    "--divide-by two": ("--divide-by: 'two' is unknown, expected dare or a number",),
    "--divide-by 0": ("--divide-by: is 0.0", POSITIVE), "--divide-by -1": ("--divide-by: is -1.0", POSITIVE),
    "--divide-by nan": ("--divide-by: is nan", POSITIVE), "--divide-by inf": ("--divide-by: is inf", POSITIVE),
    "--divide-by 1e-50": ("--divide-by: is 1e-50", "float32"), "--divide-by 1e50": ("--divide-by: is 1e+50", "float32"),
    "--keep 0.1 --budget 1MB": ("--keep and --budget: contradict each other; give one of them",),
    "--method exact --keep 1": ("--method exact: keeps every entry bit for bit; leave out --keep",),
    "--method exact --budget 1MB": ("--method exact: ", "leave out --keep, --budget, --values, --divide-by"),
    "--method exact --values f32": ("--method exact: ", "--values"),
    "--method exact --divide-by 2": ("--method exact: ", "--divide-by"),
    "--method exact --no-pack": ("--method exact: ", "--no-pack"),
    "--budget 20": ("--budget: 20 bytes is below the floor of", "raise the budget"),
    "--budget 0": ("--budget: '0' is not positive",), "--budget ''": ("--budget: '' is not a size",),
    "--budget much": ("--budget: 'much' is not a size, expected bytes, such as 20MB or 512KiB",),
    "--seed 9223372036854775808": ("--seed: ", "9223372036854775808", "64"),
    "--whole zz*": ("--whole 'zz*'", "covers no tensor; the fine-tuned model has a.weight, b.weight"),
    "--rename encoder": ("--rename: 'encoder' has no '=', expected OLD=NEW, such as encoder.=bert.encoder.",),
    "--rename x.=y.": ("--rename x.=y.: pairs no tensor", "start with 'x.'", "the base has a.weight"),
    "--plan nothing.yaml": ("error: nothing.yaml: cannot be read (No such file or directory)",),
    "--plan base": ("error: base: cannot be read (Is a directory)",),
}  # fmt: skip


@pytest.mark.parametrize("options", SETTINGS)
def test_settings_that_cannot_be_are_refused(options: str, desk: Desk) -> None:
    desk.refuses(f"prune base tuned out {options}", *SETTINGS[options])


RULE = "tensors: [{match: a.*, %s}]"
PLANS = {
    "": ("the file", "tensors: [{match: GLOB, ...}]"), "- 1": ("the file", "tensors: [{match: GLOB, ...}]"),
    "tensors: [": ("is not YAML", "line 1"), "tensors: [{match: 2024-13-45}]": ("is not YAML", "month"),
    "[" * 5000: ("is not YAML", "nested"), "\x00": ("is not YAML",), "a: *b": ("is not YAML", "alias 'b'"),
    "a: !!python/object:os.system {}": ("is not YAML", "python/object"),
    "tensors: []\ntensors: [{match: a.*}]": ("is not YAML", "'tensors' twice"), "other: []": ("tensors",),
    "tensors: {match: a}": ("tensors: Input should be a valid list",), "tensors: [{form: whole}]": ("rule 1", "match"),
    "tensors: [{match: 5}]": ("rule 1", "match: Input should be a valid string"),
    "tensors: [{match: zz*}]": ("rule 1: ", "'zz*' covers no tensor", "a.weight, b.weight"),
    RULE % "colour: red": ("rule 1", "colour"), RULE % "form: best": ("rule 1", "form", "'whole'"),
    RULE % "keep: 2": ("rule 1 keep: 2.0 is outside (0, 1]",), RULE % "keep: '0.1'": ("rule 1", "keep", "number"),
    RULE % "method: best": ("rule 1 method: 'best' is unknown",), RULE % "values: 9bit": ("rule 1 values: '9bit'",),
    RULE % "divide_by: 0": ("rule 1 divide_by: is 0.0", POSITIVE),
    RULE % "method: columns, columns: 0.001": ("rule 1 columns: 0.001 is outside [0.01, 1]",),
    RULE % "columns: 0.5": ("rule 1 columns: method random chooses no columns",),
    RULE % "form: whole, columns: 0.5": ("rule 1: form whole keeps every entry; leave out columns",),
    RULE % "method: exact, keep: 0.1": ("rule 1: method exact keeps every entry; leave out keep",),
    "a: !!timestamp abc": ("is not YAML",),
    RULE % "form: exact, values: bf16": ("rule 1: ", "form exact", "leave out values"),
    RULE % "form: whole, values: 9bit": ("rule 1 values: '9bit' is unknown",),
    RULE % "form: whole, divide_by: 2": ("rule 1: ", "form whole", "leave out divide_by"),
    RULE % "form: exact, method: random": ("rule 1: ", "form exact", "leave out method"),
    RULE % "method: exact, values: 4bit": ("rule 1: ", "method exact", "leave out values"),
    RULE % "method: exact, divide_by: 2": ("rule 1: ", "method exact", "leave out divide_by"),
    RULE % "form: whole, keep: 0.1": ("rule 1: form whole keeps every entry; leave out keep",),
}  # fmt: skip


@pytest.mark.parametrize("text", PLANS, ids=lambda text: text[:40].replace("\x00", "NUL"))
def test_faults_of_a_plan_are_refused_by_file_and_rule(text: str, desk: Desk) -> None:
    (desk.folder / "plan.yaml").write_text(text)
    assert "_Yaml" not in desk.refuses("prune base tuned out --plan plan.yaml", "error: plan.yaml", *PLANS[text])


def test_a_plan_may_use_anchors_and_merges(desk: Desk) -> None:
    (desk.folder / "plan.yaml").write_text("tensors:\n- &all {match: a.*, form: whole}\n- {<<: *all, match: b.*}")
    desk.does("prune base tuned out --plan plan.yaml")
    rows = json.loads(desk.does("inspect out --json"))["tensors"]
    assert (rows["a.weight"]["form"], rows["b.weight"]["form"]) == ("whole", "whole")


@pytest.mark.parametrize("rule", ["method: magnitude, keep: 0.1", "keep: 0.1"])
def test_a_rule_beats_the_method_of_the_whole_or_is_refused(rule: str, desk: Desk) -> None:
    (desk.folder / "plan.yaml").write_text(RULE % rule)
    if desk.run("prune base tuned out --method exact --plan plan.yaml")[0] == 0:
        assert json.loads(desk.does("inspect out --json"))["tensors"]["a.weight"]["form"] == "pruned"


def changed(name: str, **edit: Any) -> State:
    state = base_state()
    state[name] = np.array(edit["to"]) if "to" in edit else state[name].copy()
    if "to" not in edit:
        state[name].flat[-1] += 1
    return state


BASES = {
    "another model": (tuned_state() | {"pooler.weight": np.ones((4, 4), np.float32)}, "a.weight has digest"),
    "a pruned value": (changed("b.weight"), "b.weight has digest"),
    "a whole value": (changed("n.bias"), "n.bias has digest"),
    "a dropped value": (changed("pooler.weight"), "pooler.weight has digest"),
    "missing": ({k: v for k, v in base_state().items() if k != "b.weight"}, "b.weight is missing, expected F32 (32,"),
    "extra": (base_state() | {"zz": np.ones(1, np.float32)}, "zz is in this base, expected no such tensor"),
    "dtype": (changed("n.bias", to=np.ones(8)), "n.bias is F64 (8,), expected F32 (8,)"),
    "shape": (changed("a.weight", to=np.ones((64, 63), np.float32)), "a.weight is F32 (64, 63), expected F32 (64, 64)"),
}  # fmt: skip


@pytest.mark.parametrize("other", BASES)
def test_another_base_is_refused_by_its_first_difference(other: str, desk: Desk) -> None:
    state, says = BASES[other]
    right, wrong = open_checkpoint("base"), open_checkpoint(write_checkpoint(desk.folder / "other", state))
    for line in ("restore other delta out", "verify delta --base other"):
        text = desk.refuses(line, "error: other: is not the base of this delta: ", says, "use the base it was made")
        assert right.whole_digest() in text
        if digests := re.search(r"(\S+) has digest (\w{16})\.\.\., expected (\w{16})\.\.\.", text):
            name, found, expected = digests.groups()
            assert wrong.digest(name).startswith(found)
            assert right.digest(name).startswith(expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_values_that_are_not_finite_are_refused_or_kept(value: float, side: str, desk: Desk) -> None:
    state = base_state() if side == "base" else tuned_state()
    state["b.weight"][3, 5] = value
    write_checkpoint(desk.folder / side, state)
    which = "the base tensor" if side == "base" else "the fine-tuned tensor"
    says = f"error: b.weight: {which} holds NaN or infinity, which pruning cannot keep; store it whole"
    for method in ("random", "bernoulli", "magnitude", "random --keep 0.5"):
        desk.refuses(f"prune base tuned out --method {method}", says, "--whole 'b.weight'", "--method exact")
    for option in ("--whole b.*", "--method exact"):
        desk.does(f"prune base tuned out {option} --force")
        desk.does("restore base out back --force")
        tuned, back = open_checkpoint("tuned"), open_checkpoint("back")
        assert bytes(back.views["b.weight"]) == bytes(tuned.views["b.weight"])


@pytest.mark.parametrize("options", ["--values bf16", "--values f16", "--values f32", "--values 4bit", "--values sign",
                                     "--values codebook4", "--values codebook4 --method magnitude"])  # fmt: skip
def test_a_huge_difference_is_refused_at_once_or_restores(options: str, desk: Desk) -> None:
    state = tuned_state()
    state["a.weight"][3, 5] = 3.4e38
    write_checkpoint(desk.folder / "tuned", state)
    code, _, err = desk.run(f"prune base tuned out --keep 1 {options}")
    assert (code, err) == (0, "") or "a.weight: a difference" in err
    if code == 0:
        desk.does("verify out --base base")


def test_shapes_that_differ_are_refused_with_a_way_out_that_works(desk: Desk) -> None:
    for shape, rows in (((64, 63), False), ((63, 64), True), ((64, 64, 1), False)):
        write_checkpoint(desk.folder / "tuned", tuned_state() | {"a.weight": np.ones(shape, np.float32)})
        says = f"error: a.weight: base is (64, 64), fine-tuned is {shape}; store it whole with --whole 'a.weight'"
        text = desk.refuses("prune base tuned out --force", says)
        assert ("form: resized" in text) == rows
        desk.does("prune base tuned out --whole 'a.weight' --force")
    (desk.folder / "plan.yaml").write_text("tensors: [{match: a.weight, form: resized}]")
    desk.refuses("prune base tuned out2 --plan plan.yaml", "expected shapes that differ in the number of rows only")


def test_models_without_a_common_name_are_refused(desk: Desk) -> None:
    write_checkpoint(desk.folder / "tuned", {"x.weight": np.ones((2, 2), np.float32)})
    desk.refuses(
        "prune base tuned out", "error: names: no tensor of the fine-tuned model (x.weight) is in the base (a.weight, ",
        "check that this is its base, or pair the names with --rename OLD=NEW",
    )  # fmt: skip


PATHS = {
    "prune nothing tuned out": ("error: nothing: there is no such file or directory", "give a model directory"),
    "prune base tuned/model.safetensors/x out": ("there is no such file or directory",),
    "prune base tuned/config.json out": ("error: tuned/config.json: the header claims",),
    "prune pickles tuned out": ("holds only pickles (pytorch_model.bin)", "convert it first", "save_pretrained"),
    "prune base pickles/pytorch_model.bin out": ("pytorch_model.bin: is a pickle", "convert it first"),
    "prune base delta out": ("error: delta: is a delta, not a checkpoint; restore it first",),
    "prune base pipe out": ("error: pipe: ",), "prune base loop out": ("error: loop: ",),
    f"prune base {'n' * 300} out": ("File name too long",),
    "restore base tuned out": ("error: tuned: holds no delta.safetensors, expected a delta directory written by",),
    "restore base delta/delta.safetensors out": ("delta.safetensors: is a file, expected a delta directory",),
    "restore base nothing out": ("error: nothing: there is no such directory, expected a delta directory",),
    "restore nothing delta out": ("error: nothing: there is no such file or directory",),
    "verify delta --base nothing": ("error: nothing: there is no such file or directory",),
    "inspect base": ("error: base: holds no delta.safetensors",), "rescale base --divide-by 2": ("error: base: ",),
    "rescale delta --divide-by two": ("error: --divide-by: 'two' is unknown, expected dare or a number",),
    "rescale delta --divide-by 0": ("error: --divide-by: is 0.0", POSITIVE),
    "rescale delta --divide-by 1e-50": ("error: --divide-by: is 1e-50", "float32"),
    "rescale same --divide-by 2": ("error: same: has no pruned tensor to rescale",),
}  # fmt: skip


@pytest.mark.parametrize("line", PATHS, ids=lambda line: line[:40])
def test_paths_that_are_something_else_are_refused(line: str, desk: Desk) -> None:
    (desk.folder / "pickles").mkdir()
    (desk.folder / "pickles" / "pytorch_model.bin").write_bytes(b"PK")
    desk.does("prune base base same")
    if "pipe" in line:
        os.mkfifo(desk.folder / "pipe")
    (desk.folder / "loop").symlink_to("loop")
    desk.refuses(line, *PATHS[line])


def test_a_companion_file_that_changed_is_refused(desk: Desk) -> None:
    config, lines = desk.folder / "base" / "config.json", ("restore base delta out", "verify delta --base base")
    for content in (config.read_text().replace("test", "text"), config.read_text() + " "):
        config.write_text(content)
        for line in lines:
            text = desk.refuses(line, "error: base/config.json: has ", "use the base directory the delta was made from")
            assert re.search(r"has (digest \w{16}\.\.\.|\d+ bytes), expected (\w{16}\.\.\.|\d+);", text)
    config.unlink()
    for line in lines:
        desk.refuses(line, "error: base/config.json: is missing, expected ", "use the base directory")


def test_names_that_would_steer_a_terminal_are_shown_in_plain_text(desk: Desk) -> None:
    state = {"x\n\x1b[2Jerror": np.ones((2, 2), np.float32)}
    write_checkpoint(desk.folder / "tuned", state)
    desk.refuses("prune base tuned out", "no tensor of the fine-tuned model (x\\n\\x1b[2Jerror) is in the base")
    write_checkpoint(desk.folder / "tuned", state | tuned_state())
    desk.does("prune base tuned out")
    assert re.search(r"^x\\n\\x1b\[2Jerror +whole ", desk.does("inspect out --tensors"), re.MULTILINE)


def test_paths_that_are_not_unicode_work_or_are_refused(desk: Desk) -> None:
    odd = desk.folder / os.fsdecode(b"mod\xe8le")
    (desk.folder / "base").rename(odd)
    for words in ((odd, "tuned", f"{odd}-out", "--json"), (f"{odd}-no", "tuned", "out")):
        done = subprocess.run([COMMAND, "prune", *words], capture_output=True, check=False)
        assert b"Traceback" not in done.stderr
        assert done.returncode == 0 or done.stderr.startswith(b"error: ")
        assert done.returncode == 1 or json.loads(done.stdout)["job"] == "prune"


@pytest.mark.parametrize("line", [
    "", "prune", "prune base tuned", "prune base tuned out more", "prune base tuned out --threads 0", "nonsense",
    "prune base tuned out --keep lots", "prune base tuned out --seed 1.5", "restore base delta", "rescale delta",
    "inspect", "inspect delta --nonsense", "verify", "--nonsense",
])  # fmt: skip
def test_wrong_usage_is_exit_code_2(line: str, desk: Desk) -> None:
    before = sorted(desk.folder.iterdir())
    code, out, err = desk.run(line)
    assert code == 2
    assert "Usage: " in (out if line == "" else err)
    assert "Traceback" not in err
    assert sorted(desk.folder.iterdir()) == before


def test_json_is_one_object_and_nothing_else(desk: Desk) -> None:
    for line in ("prune base tuned out", "inspect out", "verify out --base base", "rescale out --divide-by 1",
                 "restore base out back"):  # fmt: skip
        record = json.loads(desk.does(f"{line} --json"))
        assert record["job"] == line.split()[0]
        assert record["numbers"]["seconds"] >= 0
    desk.refuses("restore base tuned x --json", "error: tuned: holds no delta.safetensors")


def test_in_a_pipe_nothing_moves_and_no_line_is_folded(desk: Desk) -> None:
    environment = os.environ | {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}  # as continuous integration sets them
    for line in ("prune base tuned out", "inspect out --json"):
        done = subprocess.run([COMMAND, *line.split()], capture_output=True, check=True, env=environment)
        assert done.stderr == b""
        assert line != "inspect out --json" or json.loads(done.stdout)["job"] == "inspect"
    row = r"^a\.weight +pruned +F32 64x64 +41 stratified +bf16 +0\.01001 "
    assert re.search(row, desk.does("inspect out --tensors"), re.MULTILINE)
