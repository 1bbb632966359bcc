"""What `predict --tokens` shows: the labels, what is proved of the geometry, first directions with their words."""

from typing import TYPE_CHECKING, Any, Final

from deltagram import show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deltagram.records import Record

_WORDS: Final = 4  # a side of a direction
_GROUPS: Final = 3


def show_tokens(record: "Record") -> None:
    """Sizes, certificates, collapse, directions."""
    n, page = record.numbers, show.out()
    size = n["support_size"]
    page.print(f"{n['name']}: {n['words']:,} words, {n['contexts']:,} contexts, {n['samples']:,} samples")
    page.print(
        f"{n['distinct_supports']:,} distinct supports of {size['least']:,} to {size['most']:,} words (median "
        f"{size['median']:g}; {size['one']:,} of one word, {size['full']:,} full); entropy H {n['entropy']:.4f}"
    )
    _proofs(n)
    _collapse(n["collapse"])
    if n.get("directions"):
        page.print(_directions(n["directions"]))
        growth = ", ".join(f"{value:.3g}" for value in n["growth"])
        page.print(f"growth from zero, largest first (singular values of centred P diag(weights)): {growth}")
    if "beside_proxy" in n:
        far = n["beside_proxy"]
        page.print(
            f"beside the centred supports: words {far['words']:.3f}, contexts {far['contexts']:.3f} (distance of Gram "
            f"matrices of norm 1); cosines correlate {far['word_correlation']:.3f}, {far['context_correlation']:.3f}"
        )
    for name, text in n["conventions"].items():
        page.print(f"{name}: {text}")


def _proofs(n: "Mapping[str, Any]") -> None:
    page = show.out()
    if "margin" in n:
        found = n["margin"]
        page.print(
            f"least nuclear norm {found['primal']:.6g}, certified gap {abs(found['gap']):.1e} after "
            f"{found['iterations']} iterations; {found['rank']} dimensions; {found['slack']:.0%} of margins have slack"
        )
        page.print(f"unique: {found['uniqueness']['unique']} ({found['uniqueness']['why']})")
    if n.get("proxy"):
        found = n["proxy"]
        page.print(
            f"centred supports: norm {found['value']:.6g}, exact: {found['exact']} (at most {found['excess']:.2%} "
            f"above the least by their own bound)"
        )
    if "low_dimension" in n:
        found = n["low_dimension"]
        page.print(
            f"in {found['dim']} dimensions: norm {found['value']:.6g}, {found['excess']:.2%} above the bound for any "
            f"number; cosine with the free solution {found['cosine']:.4f}; the best of {found['searches']} searches, "
            f"not shown to be the best there is"
        )
    if "ridge" in n:
        found = n["ridge"]
        page.print(
            f"ridge {found['ridge']:g}: CE - H {found['excess']:.4g}, duality gap {found['gap']:.1e} of what the "
            f"objective is above H; {found['rank']} dimensions; {found['switched_on']:,} contexts are switched on"
        )
        page.print(
            f"stationarity: norm of G {found['slope_norm']:.6f}, <G, L> / |L|_* {found['balance']:.6f} (both 1 at the "
            f"minimum); everything is zero from {found['zero_from']:.4g} on"
        )


def _collapse(found: "Mapping[str, Any]") -> None:
    page = show.out()
    for kind, told in (("context", "of one support"), ("word", "that follow the same contexts")):
        groups = found[f"{kind}_groups"]
        if groups:
            page.print(f"{found[f'{kind}s_in_groups']:,} {kind}s {told} in {groups:,} groups: each collapses, such as")
            for group in found[f"largest_{kind}_groups"][:_GROUPS]:
                page.print(f"  {group['size']:,}: {_told(group['first'])}")


def _directions(found: "list[Mapping[str, Any]]") -> Any:
    page = show.table("direction", "size", "words", "against", "contexts", "against")
    for number, one in enumerate(found, 1):
        sides = (*one["words"], *one["contexts"])
        page.add_row(str(number), f"{one['size']:.4g}", *(_told(side) for side in sides))
    return page


def _told(names: "list[str]") -> str:
    return ", ".join(show.plain(name) or "''" for name in names[:_WORDS]) + (", ..." if len(names) > _WORDS else "")
