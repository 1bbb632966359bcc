"""CE parameterisations in networks: which geometry each converges to, and which classes it tells (P5)."""

from typing import Any

from deltagram.papers import nets
from deltagram.papers.bench import Bench
from deltagram.papers.ceparam_texts import texts
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked, Numbers, averaged

Both = tuple[Numbers, list[dict[str, Any]]]


def accuracy(bench: Bench, claim: Claim) -> Checked:
    """P5: every loss on the same images, beside LDT that is told the counts the wrong way round."""
    s = claim.settings
    kinds = [s["net"], *(s["full_nets"] if bench.scale.full else ())]

    def work(seed: int) -> Both:
        found = {
            (images, kind, loss): nets.run(bench, images, kind, loss=loss, seed=seed)
            for images, kind in kinds for loss in s["losses"]
        }  # fmt: skip
        images, kind = s["net"]
        wrong = nets.run(bench, images, kind, loss="ldt-weights", seed=seed, told_wrong=True)
        by_loss = {loss: found[images, kind, loss] for loss in s["losses"]}
        plain, beside = by_loss["ce"], _beside(bench, claim, seed) if bench.scale.full else []
        return {
            **{
                f"gain_{loss.replace('-', '_')}": by_loss[loss]["balanced"] - plain["balanced"]
                for loss in s["losses"] if loss != "ce"
            },
            "minority": by_loss["ldt-weights"]["minority"] - plain["minority"],
            "train_accuracy": min(run["train_accuracy"] for run in by_loss.values()),
            "plain_w": plain["w_etf"] - plain["w_seli"],
            "additive_w": min(by_loss[loss]["w_etf"] - by_loss[loss]["w_seli"] for loss in ("weighted", "la")),
            "multiplied_w": min(by_loss[loss]["w_seli"] - by_loss[loss]["w_limit"] for loss in ("cdt", "ldt")),
            "control_wrong_counts": wrong["balanced"] - plain["balanced"],
        }, [*found.values(), wrong, *beside]  # fmt: skip

    return averaged(bench, work)


def _beside(bench: Bench, claim: Claim, seed: int) -> list[dict[str, Any]]:
    """What is not judged: other gammas on the same images, for the first seed, and imbalanced texts."""
    images, kind = claim.settings["net"]
    gammas = claim.settings["full_gammas"] if seed == bench.scale.seeds[0] else ()
    swept = [
        nets.run(bench, images, kind, loss=loss, seed=seed, gamma=gamma) for loss in ("cdt", "ldt") for gamma in gammas
    ]
    return swept + texts(bench, seed=seed)
