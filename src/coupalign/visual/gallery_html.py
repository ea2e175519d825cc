"""Cases of an evaluation as a page of HTML that needs no other file and no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape

from coupalign.files import atomic_path
from coupalign.overlay import jpeg_uri
from coupalign.visual.cases import Case
from coupalign.visual.gallery import ABOUT, case_pictures, headline, summary
from coupalign.visual.results import Evaluation

_SIDE = 320  # of a picture, in pixels
# The browser is told to load nothing, whatever an expression holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """:root { color: #1f2933; font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1.5rem }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 } p { color: #66727f; margin: .4rem 0 }
form { align-items: end; background: #fff; border-bottom: 1px solid #d9dfe5; display: flex; flex-wrap: wrap; gap: 1.5rem;
  margin: 1.2rem 0; padding: .8rem 0; position: sticky; top: 0 }
label { color: #66727f; display: grid; font-size: .8rem; gap: .2rem }
select { background: #fff; border: 1px solid #aab4be; border-radius: 4px; color: #1f2933; font: inherit;
  font-size: .95rem; min-width: 11rem; padding: .3rem .5rem }
output { margin-left: auto; color: #66727f }
main { display: grid; gap: 2rem 2.5rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)) }
article { border-top: 3px solid #aab4be; padding-top: .6rem }
[data-group=best] { border-color: #4f9d69 } [data-group=worst] { border-color: #c2514b }
[data-group=median] { border-color: #2f6690 }
article > p { display: flex; gap: .8rem; margin: 0 } b { color: #1f2933 } small { margin-left: auto }
h2 { font-size: 1.05rem; font-weight: 500; line-height: 1.35; margin: .1rem 0 .6rem; overflow-wrap: anywhere }
article div { display: grid; gap: .8rem; grid-template-columns: repeat(3, 1fr) }
figure { margin: 0 } img { aspect-ratio: 1; background: #f4f6f8; display: block; object-fit: contain; width: 100% }
figcaption { color: #66727f; font-size: .8rem; margin-top: .2rem; text-align: center }"""
_SCRIPT = """const form = document.querySelector("form"), main = document.querySelector("main");
const cases = [...main.children];
const orders = {
  group: () => 0,
  high: (a, b) => b.dataset.iou - a.dataset.iou,
  low: (a, b) => a.dataset.iou - b.dataset.iou,
  family: (a, b) => a.dataset.family.localeCompare(b.dataset.family) || b.dataset.iou - a.dataset.iou,
  expression: (a, b) => a.dataset.expression.localeCompare(b.dataset.expression),
};
function show() {
  const wanted = ["group", "family"].map(name => [name, form.elements[name].value]);
  main.append(...[...cases].sort(orders[form.elements.sort.value]));
  for (const each of cases) each.hidden = !wanted.every(([name, value]) => !value || each.dataset[name] === value);
  form.elements.count.value = `${cases.filter(each => !each.hidden).length} of ${cases.length} cases`;
}
form.addEventListener("change", show);
show();"""


def write_html(evaluation: Evaluation, cases: Sequence[Case], path: str | os.PathLike) -> None:
    """Writes the page, atomically: a card a case, to be sorted, and filtered by group and family of expressions."""
    families = sorted({case.sample["family"] for case in cases} - {""})
    groups = list(dict.fromkeys(case.group for case in cases))
    page = [
        f'<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=Content-Security-Policy content="{_POLICY}">',
        f"<meta name=viewport content='width=device-width'><title>{escape(headline(evaluation))}</title>",
        f"<style>{_STYLE}</style><h1>{escape(headline(evaluation))}</h1><p>{escape(summary(evaluation))}</p>",
        *(f"<p><b>{group.capitalize()}.</b> {ABOUT[group]}</p>" for group in groups),
        "<form autocomplete=off>",
        _select(
            "Order",
            "sort",
            [
                ("group", "as chosen"),
                ("high", "IoU, high to low"),
                ("low", "IoU, low to high"),
                ("family", "family"),
                ("expression", "expression"),
            ],
        ),
        _select("Cases", "group", [("", "all"), *((group, group) for group in groups)]),
        _select("Family", "family", [("", "all"), *((family, family.replace("_", " ")) for family in families)]),
        "<output name=count></output></form><main>",
        *(_card(case) for case in cases),
        f"</main><script>{_SCRIPT}</script>",
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(page), encoding="utf-8")


def _card(case: Case) -> str:
    sample = case.sample
    figures = "".join(
        f'<figure><img alt="{name}" src="{jpeg_uri(picture, _SIDE)}"><figcaption>{name}</figcaption></figure>'
        for name, picture in case_pictures(case, _SIDE)
    )
    return (
        f'<article data-group="{case.group}" data-family="{escape(sample["family"])}" data-iou="{sample["iou"]}" '
        f'data-expression="{escape(sample["expression"])}"><p><b>IoU {float(sample["iou"]):.3f}</b>'
        f"<span>{escape(sample['family'].replace('_', ' '))}</span><small>{case.group}, sent_id "
        f"{sample['sent_id']}</small></p><h2>“{escape(sample['expression'])}”</h2><div>{figures}</div></article>"
    )


def _select(label: str, name: str, options: Sequence[tuple[str, str]]) -> str:
    choices = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
    return f"<label>{label}<select name={name}>{choices}</select></label>"
