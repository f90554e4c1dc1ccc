"""Write the tables of measurements in README and docs from the files under `results/`.

    python scripts/docs_tables.py            rewrite them
    python scripts/docs_tables.py --check    exit with 1 if a table is not what its file says

A table stands between `<!-- table: NAME from results/FILE -->` and `<!-- end of table -->`. If the
file is missing, the document says that nothing was measured.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.claims import speed_words
from harness.claims.grouping import comparable
from harness.claims.speed import of_run, speeds
from harness.output.atomic import write_atomic
from harness.results import float_paths
from harness.results import formatting as figures
from harness.results.store import ResultStore, Stored

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
REGION = re.compile(
    r"(<!-- table: (?P<name>\w+) from (?P<file>results/\S+) -->\n).*?(<!-- end of table -->)",
    re.DOTALL,
)
NOT_MEASURED = "*Not measured yet: `{file}` does not exist.*\n"

OTHERS = {
    "lm_eval": "lm-eval 0.4.13, batch size 4 (its fastest)",
    "plain_loop": "loop over `model(ids).logits.float()`",
}

NAMES = {
    "plain": "transformers, `generate`",
    "eager": "unquantized model, eager",
    "eager, float32 products": "unquantized model, eager, float32 products",
    "compiled": "unquantized model, compiled",
    "llama.cpp Q4_1": "llama.cpp on the same file (4-bit weights)",
}

Rows = list[list[str]]
Json = dict[str, Any]


def rendered(text: str, root: Path = ROOT) -> str:
    """Return a document with every table as its file says."""

    def replace(found: re.Match[str]) -> str:
        file = root / found["file"]
        body = NOT_MEASURED.format(file=found["file"])
        if file.exists():
            rows = TABLES[found["name"]](file)
            body = markdown(rows) + f"\nFrom `{found['file']}`.\n"
        return f"{found[1]}{body}{found[4]}"

    return REGION.sub(replace, text)


def markdown(rows: Rows) -> str:
    """Return a table whose first row is its header."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def load(file: Path) -> Json:
    """Return the output of a benchmark."""
    found: Json = json.loads(file.read_text(encoding="utf-8"))
    return found


def machine(made: Mapping[str, Any]) -> str:
    """Return a processor and which 16-bit or 8-bit instructions it has."""
    flags = [
        f for f in made["cpu_flags"] if f in ("avx512_vnni", "avx512_bf16", "amx_bf16", "bf16")
    ]
    name = made["cpu"].replace("(R)", "").replace(" Processor", "")
    threads = "1 thread" if made["threads"] == 1 else f"{made['threads']} threads"
    return f"{name} ({', '.join(flags) or 'neither vnni nor bf16'}), {threads}"


def steps(file: Path) -> Rows:
    """Return where the time of a decode step goes [ms]."""
    found = load(file)
    tables = found["tables"]
    names = [kind for kind in next(iter(tables.values())) if kind != "step"]
    kinds = [kind for kind in names if any(table[kind] for table in tables.values())]
    rest = {name: table["step"] - sum(table[k] for k in kinds) for name, table in tables.items()}
    lines = {kind: {name: table[kind] for name, table in tables.items()} for kind in kinds}
    lines |= {"the rest: Python and dispatch": rest}
    lines |= {"a token": {name: table["step"] for name, table in tables.items()}}
    return [
        [machine(found["about"]["provenance"]), *(f"{name} [ms]" for name in tables)],
        *([kind, *(f"{value:.1f}" for value in of.values())] for kind, of in lines.items()),
    ]


def request_speeds(folder: Path) -> Rows:
    """Return prefill and decode of every contender [token/s], two columns a machine."""
    found = [load(file) for file in sorted(folder.glob("smollm2*.json"))]
    header, rows = ["[token/s]"], dict[str, list[str]]()
    for index, each in enumerate(found):
        name = machine(each["about"]["provenance"])
        header += [f"{name}: {phase}" for phase in ("prefill", "decode")]
        for title, contenders in each["tables"].items():
            # The first contender of a recipe's table is the unquantized model again.
            for row in contenders if title == "float" else contenders[1:]:
                cells = rows.setdefault(row["name"], [figures.MISSING] * 2 * len(found))
                speeds = row["prefill_tokens_per_s"], row["decode_tokens_per_s"]
                cells[2 * index : 2 * index + 2] = map(figures.rate, speeds)
    return [header, *([NAMES.get(name, name), *cells] for name, cells in rows.items())]


def prefill(folder: Path) -> Rows:
    """Return prefill beside both ways of the unquantized model: a row a machine and recipe."""
    rows = [
        [
            "machine",
            "recipe",
            "prefill [token/s]",
            "float beside it [token/s]",
            "/ native products",
            "/ the faster products",
        ]
    ]
    stored = [item for item in ResultStore(root=folder).load()[0] if item.record.metrics]
    claims = [each for group in comparable(stored) for each in speeds(group)]
    latest = {(item.record.provenance.cpu, _recipe(item)): item for item in stored}
    for (_, name), item in latest.items():
        metric = item.record.metric
        speed, own = metric("prefill"), of_run(claims, item.record.run_id)
        if speed is None or speed.value is None:
            continue
        rows.append(
            [
                machine(item.record.provenance.model_dump()),
                f"`{name}`",
                figures.rate(speed.value),
                float_paths.in_turn(float_paths.speeds(metric, "prefill")) or figures.MISSING,
                speed_words.to_native(own, "prefill"),
                speed_words.to_faster(own, "prefill"),
            ]
        )
    return rows


def _recipe(item: Stored) -> str:
    return item.record.quant.name if item.record.quant else ""


def readers(file: Path) -> Rows:
    """Return how far transformers' reading of a checkpoint is from the recipe [nat/token]."""
    found = load(file)
    rows = [
        ["recipe", "`dequantize=True`", "left compressed", "the recipe from the unquantized model"]
    ]
    for name, row in found["recipes"].items():
        values = [row[key] for key in ("dequantized", "compressed", "recipe_from_float")]
        cells = ["inputs stay in float" if v is None else f"{v:#.2g}" if v else "0" for v in values]
        rows.append([f"`{name}`", *cells])
    return rows


def scale_errors(file: Path) -> Rows:
    """Return the largest relative difference of a stored scale from the recipe's."""
    found = load(file)
    errors = {name: row["scale_error"] for name, row in found["recipes"].items()}
    exact = [name for name, error in errors.items() if error == 0]
    rows = [
        ["", "`scale_error`"],
        [f"compressed-tensors: {', '.join(f'`{n}`' for n in exact)}", "0"],
    ]
    rows += [[f"compressed-tensors: `{n}`", f"{e:.1e}"] for n, e in errors.items() if e]
    return [*rows, ["GPTQ: `int4_g64`", f"{found['gptq_scale_error']:.1e}"]]


def exactness(file: Path) -> Rows:
    """Return the largest relative error of a layer, by type of the model."""
    found = load(file)
    rows: Rows = []
    for name, errors in found["recipes"].items():
        cells = [f"{e:.1e}" if isinstance(e, float) else "unsupported" for e in errors.values()]
        rows.append([f"`{name}`", *cells])
    return [[machine(found["provenance"]), *next(iter(found["recipes"].values()))], *rows]


def formats(file: Path) -> Rows:
    """Return how long formats take, in copies of the tensor."""
    found = load(file)
    about = f"{machine(found['provenance'])}, a copy takes {1000 * found['copy_s']:.1f} ms"
    rows = [[about, "here [copies]", "the other library [copies]", "memory [tensors]"]]
    for name, row in found["formats"].items():
        other = row["other_copies"]
        cells = [f"{row['copies']:.2f}", f"{other:.2f}" if other else "-", f"{row['memory']:.2f}"]
        rows.append([f"`{name}`", *cells])
    return rows


def evaluation(folder: Path) -> Rows:
    """Return accuracy tasks beside lm-eval and a plain loop: medians of the runs on file."""
    first, second = (load(folder / f"{n}.json") for n in ("direct_and_perplexity", "generate"))
    parts = {
        "MMLU, direct": (first["parts"]["direct"], "lm_eval", "question"),
        "MMLU, generate": (second["parts"]["generate"], "lm_eval", "question"),
        "perplexity": (first["parts"]["perplexity"], "plain_loop", "window"),
    }
    own = machine(first["parts"]["direct"]["machine"])
    rows = [[own, "quant-harness", "beside it", "ratio", "ratio with native products"]]
    for name, (part, key, unit) in parts.items():
        ours, theirs = (statistics.median(part[k]["seconds"]) for k in ("quant_harness", key))
        ratios = f"{part['speedup']:.1f}", f"{part['speedup_native']:.1f}"
        other = f"{OTHERS[key]}: {figures.rate(theirs)} s"
        rows.append(
            [f"{name}, {part[unit + 's']} {unit}s", f"{figures.rate(ours)} s", other, *ratios]
        )
    return rows


def lm_eval_tasks(folder: Path) -> Rows:
    """Return lm-eval's tasks on an engine and on HFLM, a row a file and task."""
    found = [load(file) for file in sorted(folder.glob("*.json"))]
    own = machine(found[0]["parts"]["lm_eval"]["machine"])
    rows = [[own, "documents", "`engine=local`", "`HFLM`", "times as fast", "times the tokens"]]
    for each in found:
        for name, task in each["parts"]["lm_eval"].items():
            if "ratio_of_tokens" not in task:
                continue
            seconds = statistics.mean(task["engine_s"]), task["hflm_s"]
            rows.append(
                [
                    f"`{name}`, {each['settings']['dtype']}",
                    str(task["documents"]),
                    *(f"{figures.rate(value)} s" for value in seconds),
                    f"{task['ratio']:.1f}",
                    f"{task['ratio_of_tokens']:.1f}",
                ]
            )
    return rows


def vllm(file: Path) -> Rows:
    """Return how far vLLM is from transformers on exports, and its speed."""
    found = load(file)
    exports = found["exports"]
    engine = exports[0]["engine"]
    about = f"{machine(found['provenance'])}, {engine['engine_package']} {engine['engine_version']}"
    rows = [[about, *(f"`{each['recipe']}`" for each in exports)]]
    nll = [{row["name"]: row for row in each["nll"]} for each in exports]
    num_tokens = exports[0]["nll"][0]["num_tokens"]
    shown = {
        f"difference of the mean NLL of {num_tokens} tokens": "{difference:+.4f} ± "
        "{standard_error:.4f}",
        "difference of the mean NLL of the first window": "{first_window:+.4f}",
        "mean absolute difference of a token": "{absolute:.4f}",
    }
    for name in dict.fromkeys(name for of_export in nll for name in of_export):
        pairs = [of_export.get(name) for of_export in nll]
        for title, cell in shown.items():
            cells = [cell.format(**pair) if pair else figures.MISSING for pair in pairs]
            rows.append([f"{title}, {name} [nat]", *cells])
    names = ("vLLM and transformers", "transformers, bfloat16 and float32")
    for index, name in enumerate(names):
        pairs = [each["mmlu"][index] for each in exports]
        equal = [f"{pair['equal']} of {pair['questions']}" for pair in pairs]
        clear = [f"{pair['clear_and_equal']} of {pair['clear']}" for pair in pairs]
        rows.append([f"equal answers to MMLU, {name}", *equal])
        rows.append([f"of those whose letter leads by {found['lead']} nat", *clear])
    size = exports[0]["speed"]
    for phase in ("prefill", "decode"):
        rates = [figures.rate(each["speed"][phase]) for each in exports]
        name = f"{phase} of {size['batch']} x {size['prompt_tokens']} + {size['new_tokens']} tokens"
        rows.append([f"{name} [token/s]", *rates])
    return rows


def simulation(file: Path) -> Rows:
    """Return what simulated studies of claims found: a row a kind of study, in percent."""
    found = load(file)
    titles = {
        "false": "a false claim in the family",
        "covered": "intervals that hold the truth",
        "found": "found, where `plan` promises 80 %",
        "within": "loss at the margin, one test says smaller",
        "lossless": "all losses at the margin, one is called equivalent",
    }
    rows = [[row["study"], *(f"{row[name]:.1f} %" for name in titles)] for row in found["rows"]]
    return [[f"{found['studies']:,} studies of each kind", *titles.values()], *rows]


TABLES: Mapping[str, Callable[[Path], Rows]] = {
    function.__name__: function
    for function in (
        evaluation,
        steps,
        request_speeds,
        prefill,
        readers,
        scale_errors,
        exactness,
        formats,
        lm_eval_tasks,
        simulation,
        vllm,
    )
}


def main(words: Sequence[str] | None = None) -> None:
    """Rewrite or check every document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(words).check
    other = [d for d in DOCUMENTS if rendered(d.read_text("utf-8")) != d.read_text("utf-8")]
    for document in other:
        sys.stdout.write(f"{document.relative_to(ROOT)}\n")
        if not check:
            text = rendered(document.read_text("utf-8"))
            write_atomic(document, text.encode(), "DOCUMENT", force=True)
    if check and other:
        sys.exit("these tables are not what results/ says: python scripts/docs_tables.py")


if __name__ == "__main__":
    main()
