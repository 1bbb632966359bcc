"""Merging at the command line: what is said, and what is refused with one paragraph that helps."""

import json
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_checkpoint
from deltagram.jobs import merge
from deltagram.jobs.recipe import recipe
from desk import Desk, base_state, tuned_state


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """`base`, `tuned`, their `delta`, and a second, `other`, that shares its mask."""
    made = Desk.laid(tmp_path, capsys, monkeypatch)
    write_checkpoint(tmp_path / "tuned2", {name: array * 2 for name, array in tuned_state().items()})
    made.does("prune base tuned2 other --keep 0.1")
    return made


def test_a_merge_says_what_it_did(desk: Desk) -> None:
    said = desk.does("merge base delta other out")
    assert "out: linear of 2 models, 3 tensors, " in said
    assert "names and configuration: delta" in said
    assert "base tensors left out: pooler.weight" in said
    assert "masks are shared by delta and other (the same positions in 2 of 2 pruned tensors)" in said
    said = desk.does("merge base delta tuned2 out2 --method dare_ties --density 0.5,0.4 --weights 1,0.5 --seed 3")
    assert "kept differences times 1/(1-p); mergekit rescales each tensor to its L1 norm (--dare mergekit)" in said
    said = desk.does("merge base delta tuned2 out3 --method dare_ties --density 0.5 --dare mergekit")
    assert "as mergekit does: " in said
    assert " times 1/(1-p)" in said
    assert "nothing was dropped" in desk.does("merge base delta out4 --method dare_linear --dare mergekit")
    record = json.loads(desk.does("merge base delta other out5 --as delta --keep 0.5 --values 8bit --json"))
    assert (record["job"], record["settings"]["as"], record["numbers"]["delta_bytes"] > 0) == ("merge", "delta", True)
    assert "of delta" in desk.does("merge base delta other out6 --as delta --method task_arithmetic --lambda 0.5")
    desk.does("verify out6 --base base")


def test_a_merge_of_a_file_says_its_notes(desk: Desk) -> None:
    (desk.folder / "m.yml").write_text(
        "merge_method: linear\nbase_model: base\ndtype: float16\ntokenizer_source: base\n"
        "parameters: {int8_mask: true}\n"
        "models: [{model: tuned, parameters: {weight: 1}}, {model: base, parameters: {weight: 1}}]\n"
    )
    said = desk.refuses("merge --config m.yml out", "pooler.weight: is in base, but not in tuned", "--heads")
    said = desk.does("merge --config m.yml out --heads 1")
    assert "note: int8_mask changes nothing here: sign masks live for one block, dtype float16: computed in" in said
    assert "names and configuration: tuned" in said


SETTINGS = {
    "merge base out": ("BASE DELTA... OUT: there are 2 paths, expected three or more, or --config",),
    "merge base delta other out --method mean": ("--method: 'mean' is unknown, expected linear or task_arithmetic or",),
    "merge base delta other out --weights 1": ("--weights: there are 1 for 2 models, expected one a model",),
    "merge base delta other out --weights 1,x": ("--weights: '1,x' is not a list of numbers, expected such as 1,0.5",),
    "merge base delta other out --weights 1,nan": ("--weights: nan is not a weight, expected finite numbers",),
    "merge base delta other out --weights 1,-1": ("weights: ", "add up to nothing; give other weights"),
    "merge base delta other out --method ties --density 0": ("--density: 0.0 is outside (0, 1]",),
    "merge base delta other out --method ties --density 1.5": ("--density: 1.5 is outside (0, 1]",),
    "merge base delta other out --method ties --density nan": ("--density: nan is outside (0, 1]",),
    "merge base delta other out --method ties --density 1,1,1": ("--density: there are 3 for 2 models",),
    "merge base delta other out --density 0.5": ("--density: method linear drops nothing", "use ties or dare_linear"),
    "merge base delta other out --lambda 2": ("--lambda: method linear has no task vectors to scale",),
    "merge base delta other out --method ties --lambda inf": ("--lambda: inf is not a weight",),
    "merge base delta other out --consensus count": ("--consensus: method linear elects no signs",),
    "merge base delta other out --method ties --consensus most": ("--consensus: 'most' is unknown, expected sum",),
    "merge base delta other out --dtype int8": ("--dtype: 'int8' is unknown, expected float32 or bfloat16",),
    "merge base delta other out --heads 3": ("--heads: '3' is unknown, expected refuse, base, or 1 to 2",),
    "merge base delta other out --heads tuned": ("--heads: 'tuned' is unknown, expected refuse, base, or 1 to 2",),
    "merge base delta other out --dare theirs": ("--dare: 'theirs' is unknown, expected ours or mergekit",),
    "merge base delta other out --dare mergekit": ("--dare: method linear has no random masks",),
    "merge base delta other out --seed 9223372036854775807": ("--seed: ", "is too large", "one to spare a model"),
    "merge base delta other out --as file": ("--as: 'file' is unknown, expected checkpoint or delta",),
    "merge base delta other out --keep 0.1": ("--keep and --values: say how a delta is pruned; add --as delta",),
    "merge base delta other out --as delta --values 4bit": ("--values: a delta without --keep is lossless",),
    "merge base delta other out --as delta --keep 2": ("--keep: 2.0 is outside (0, 1]",),
    "merge base delta other out --as delta --keep 1 --values 9bit": ("--values: '9bit' is unknown, expected f32",),
    "merge base delta other other/in": ("other/in: the output is, contains, or lies inside the input other",),
    "merge base delta other base": ("base: the output is, contains, or lies inside the input base",),
    "merge base delta nothing out": ("nothing: there is no such file or directory; give a model directory",),
    "merge nothing delta out": ("nothing: there is no such file or directory",),
    "merge base delta base/config.json out": ("base/config.json: ",),
    "merge tuned delta out": ("tuned: is not the base of this delta: pooler.weight is missing", "use the base"),
}  # fmt: skip


@pytest.mark.parametrize("line", SETTINGS)
def test_settings_that_cannot_be_are_refused(line: str, desk: Desk) -> None:
    desk.refuses(line, *SETTINGS[line])


def test_deltas_of_different_bases_are_refused_by_both_digests(desk: Desk) -> None:
    state = base_state()
    state["b.weight"] += 1
    write_checkpoint(desk.folder / "base2", state)
    desk.does("prune base2 tuned foreign --keep 0.1")
    digests = [
        json.loads(desk.does(f"inspect {name} --json"))["numbers"]["base_digest"] for name in ("delta", "foreign")
    ]
    desk.refuses("merge base delta foreign out", "foreign: has the base base2, digest", *digests, "of one base only")
    desk.refuses("merge base foreign out", "base: is not the base of this delta: b.weight has digest", "base2")
    desk.refuses("merge base foreign out --as delta", "b.weight has digest")


@pytest.mark.parametrize("part", ["pooler.weight", "n.bias"])
def test_base_tensors_that_merging_does_not_read_are_verified_too(part: str, desk: Desk) -> None:
    state = base_state()
    state[part] = state[part] + 1
    write_checkpoint(desk.folder / "base", state)
    desk.refuses("merge base delta other out", f"{part} has digest")


def test_a_damaged_delta_is_refused(desk: Desk) -> None:
    path = desk.folder / "other" / "delta.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    desk.refuses("merge base delta other out", "its payload has digest", "the delta is damaged")


HEAD = "merge_method: ties\nbase_model: base\n"
ONE = "models: [{model: tuned, parameters: {weight: 1}}]\n"
FILES = {
    "": ("the file: is not a mapping", "merge_method: NAME, models:"), "models: [": ("is not YAML", "line 1"),
    "a: !!python/object:os.system {}": ("is not YAML", "python/object"),
    HEAD: ("models: Field required",), HEAD + "models: []": ("models: lists nothing to merge",),
    HEAD + ONE + ONE: ("is not YAML", "'models' twice"), HEAD + "models: 3": ("models: Input should be a valid list",),
    HEAD + ONE + "colour: red": ("colour: Extra inputs are not permitted",),
    HEAD + "slices: [{sources: [{model: tuned, layer_range: [0, 1]}]}]": ("slices is not supported", "layer ranges"),
    HEAD + "modules: {default: {}}": ("modules is not supported; merge whole models",),
    HEAD + ONE + "tokenizer: {source: union}": ("tokenizer is not supported; tokens are not rearranged",),
    HEAD + ONE + "chat_template: auto": ("chat_template is not supported",),
    HEAD + ONE + "tokenizer_source: union": ("tokenizer_source: 'union' is not supported, expected 'base'",),
    HEAD + ONE + "dtype: int8": ("m.yml dtype: 'int8' is unknown",),
    HEAD + ONE + "out_dtype: half": ("m.yml out_dtype: 'half' is unknown",),
    "merge_method: ties\n" + ONE: ("merge_method ties needs a base_model; add base_model",),
    "merge_method: linear\ntokenizer_source: base\n" + ONE: ("tokenizer_source: 'base' needs a base_model",),
    "merge_method: slerp\nbase_model: base\n" + ONE: ("merge_method: 'slerp' is unknown, expected linear or",),
    HEAD + "models: [{model: tuned}]": ("m.yml tuned: has no weight; add parameters: {weight: 1.0}",),
    HEAD + "models: [{model: tuned, parameters: {weight: [{filter: a., value: 1}]}}]":
        ("tuned: there is no weight for b.weight; add a value without a filter",),
    HEAD + "models: [{model: tuned, parameters: {weight: yes}}]": ("tuned weight: True is not a number",),
    HEAD + "models: [{model: tuned, parameters: {weight: .nan}}]": ("tuned weight: nan is not a weight",),
    HEAD + "models: [{model: tuned, parameters: {weight: []}}]": ("tuned weight: is an empty list",),
    HEAD + "models: [{model: tuned, parameters: {weight: {filter: x}}}]": ("is no setting, expected {value: NUMBER",),
    HEAD + "models: [{model: tuned, parameters: {weight: [{value: 1, filter: 3}]}}]": ("is no setting",),
    HEAD + "models: [{model: tuned, parameters: {weight: [{value: 1}, 2]}}]": ("tuned weight: 2 is no setting",),
    HEAD + "models: [{model: tuned, parameters: {weight: 1, density: 0}}]": ("tuned density: 0.0 is outside (0, 1]",),
    HEAD + "models: [{model: tuned, parameters: {weight: 1, gamma: 0.1}}]": ("gamma is unknown here",),
    HEAD + "models: [{model: tuned, parameters: {weight: 1, normalize: true}}]": ("tuned: normalize is unknown here",),
    HEAD + "parameters: {epsilon: 1}\n" + ONE: ("m.yml parameters: epsilon is unknown here",),
    HEAD + "parameters: {normalize: 1}\n" + ONE: ("parameters normalize: 1 is not a switch, expected true or false",),
    HEAD + "models: [{model: tuned+lora, parameters: {weight: 1}}]": ("names a LoRA adapter; merge it into its model",),
    HEAD + "models: [{model: base, parameters: {weight: 1}}]": ("base: is the base_model, whose parameters mean",),
    HEAD + "models: [{model: base}]": ("models: lists nothing to merge",),
    HEAD + "parameters: {weight: 1}\nmodels: [{model: tuned}, {model: tuned}]": ("tuned: is listed twice",),
    "merge_method: linear\nparameters: {lambda: 2}\n" + ONE: ("lambda: method linear has no task vectors",),
    "merge_method: task_arithmetic\nbase_model: base\nparameters: {rescale: true}\n" + ONE: ("rescale: method task_",),
    "merge_method: task_arithmetic\nbase_model: base\nparameters: {density: 0.5}\n" + ONE: ("drops nothing",),
    "merge_method: linear\nmodels: [{model: delta, parameters: {weight: 1}}]": ("delta: is a delta, and no base",),
    HEAD + "models: [{model: tuned, parameters: {weight: [0, 1]}}]": ("has 0 stacks of them", "use filters"),
}  # fmt: skip


@pytest.mark.parametrize("text", FILES)
def test_faults_of_a_file_are_refused_by_file_and_key(text: str, desk: Desk) -> None:
    (desk.folder / "m.yml").write_text(text)
    desk.refuses("merge --config m.yml out --heads 1", *FILES[text])


def test_a_file_decides_alone(desk: Desk) -> None:
    (desk.folder / "m.yml").write_text(HEAD + ONE)
    desk.refuses("merge --config m.yml base delta out", "--config: the file names the models, expected one path: OUT")
    desk.refuses("merge --config m.yml out --method ties", "--config: the file decides --method; say it there")
    desk.refuses("merge --config none.yml out", "none.yml: cannot be read (No such file or directory)")
    desk.refuses("merge --config m.yml m.yml", "m.yml: the output is, contains, or lies inside the input m.yml")
    (desk.folder / "m.yml").write_text("merge_method: linear\n" + ONE)
    desk.refuses("merge --config m.yml out --as delta", "--as delta: no base is named; name one (base_model)")
    desk.refuses("merge --config m.yml out --heads base", "--heads base: no base is named; give the number of a model")


def test_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="models: there is none to merge, expected one or more"):
        merge(recipe(tmp_path, []), tmp_path / "out")


def test_nothing_stays_behind_when_merging_fails_late(desk: Desk) -> None:
    state = tuned_state()
    state["n.bias"][-1] = np.inf
    write_checkpoint(desk.folder / "bad", state)
    for end in ("", " --as delta"):
        desk.refuses(f"merge base delta bad out{end}", "n.bias: bad holds NaN or infinity in it; repair the model")
