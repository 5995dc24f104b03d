"""Which adapter and which average win where: tables from the rows of `benchmarks/adapters.py` and of "perf"."""

from collections.abc import Sequence

from isogram.report.tables import Mean, Results, difference, figure, markdown, short

SETTINGS = {
    f"adapters:{name} {labels}": f"{title}, {labels}"
    for name, title in (
        ("digits-4", "digits, 4"),
        ("digits-12", "digits, 12"),
        ("digits-48", "digits, 48"),
        ("tcga-brca-9", "TCGA, 9"),
    )
    for labels in ("iid", "skewed")
}
METHODS = ("geolora", "geodora", "fedit", "ffa-lora", "rolora", "dora", "full")
PARTS = ("geolora", "geolora no geometry", "fedit", "fedit no geometry")
REFRESHES = ("geolora refresh random", "geolora refresh gradient")
SHIFTED = {"shift:machines-8": ("machines, vibration", "vibration"), "shift:pen-6": ("digits, pen", "pen")}
WAYS = {"": "public anchors", " standardised": "standardised by its own rows", " recorded": "anchors recorded, too"}
KINDS = {
    "noise": "noisy features",
    "labels": "wrong labels",
    "few": "10 rows",
    "anchors": "half the anchors wrong",
    "synthetic": "synthetic anchors",
}
RULES = {
    "uniform": "uniform",
    "node": "node",
    "parameter": "parameter",
    "relative": "parameter, relative",
}
GOALS = {
    "goals:digits-12 iid": "digits, 12, iid",
    "goals:machines-8 iid": "machines, 8, iid",
    "goals:machines-8 skewed": "machines, 8, skewed",
    "goals:tcga-brca-9 iid": "TCGA, 9, iid",
    "goals:tcga-brca-9 skewed": "TCGA, 9, skewed",
}
CONTROLLED = ("node", "parameter")


def adapter_blocks(results: Results) -> dict[str, str]:
    """The tables of docs/adapters.md, by name."""
    return {
        "adapters": _settings(results, ("start", *METHODS), None),
        "adapters-over-fedit": _settings(results, [m for m in METHODS if m != "fedit"], "fedit"),
        "adapters-parts": _settings(results, PARTS, None),
        "adapters-parts-gain": _parts(results),
        "adapters-refresh": _settings(results, REFRESHES, "geolora"),
        "adapters-bytes": _sizes(results),
        "adapters-minilm": _minilm(results),
        "adapters-shift": _shift(results),
        "goals": _goals(results),
        "heads": _heads(results),
        "averages": _averages(results),
        "averages-controls": _controls(results),
        "consensus-precision": _consensus(results),
        "steps": _steps(results),
        "steps-alignment": _alignment(results),
        "aggregation": _aggregation(results),
        "anchor-batch": _anchor_batch(results),
    }


def accuracy(results: Results, dataset: str, method: str, direction: str | None = None) -> dict[int, float]:
    """Balanced accuracy per seed, whatever the data set calls it."""
    for metric in ("accuracy", "pam50"):
        for anchors in results.anchors(dataset):
            found = results.per_seed(dataset, method, anchors, metric, direction)
            if found:
                return found
    return {}


def _mean(values: dict[int, float]) -> Mean | None:
    return Mean.of(list(values.values())) if values else None


def _gain(left: dict[int, float], right: dict[int, float]) -> Mean | None:
    common = sorted(set(left) & set(right))
    return Mean.of([left[seed] - right[seed] for seed in common]) if common else None


def _settings(results: Results, methods: Sequence[str], base: str | None) -> str:
    lines = []
    for method in methods:
        cells = []
        for dataset in SETTINGS:
            own = accuracy(results, dataset, method)
            cells.append(
                figure(_mean(own)) if base is None else difference(_gain(own, accuracy(results, dataset, base)))
            )
        lines.append([f"`{method}`", *cells])
    return markdown(["rule", *SETTINGS.values()], lines)


def _parts(results: Results) -> str:
    """What each of GeoLoRA's two parts adds, alone and beside the other."""
    pairs = {
        "geometric loss, on FedIT": ("fedit", "fedit no geometry"),
        "geometric loss, on the frozen basis": ("geolora", "geolora no geometry"),
        "frozen basis, without the loss": ("geolora no geometry", "fedit no geometry"),
        "frozen basis, with the loss": ("geolora", "fedit"),
    }
    lines = [
        [
            what,
            *(difference(_gain(accuracy(results, d, with_it), accuracy(results, d, without))) for d in SETTINGS),
        ]
        for what, (with_it, without) in pairs.items()
    ]
    return markdown(["part", *SETTINGS.values()], lines)


def _sizes(results: Results) -> str:
    lines = []
    for method in METHODS:
        sent = [
            results.mean(dataset, method, anchors, "bytes_per_node")
            for dataset in SETTINGS
            for anchors in results.anchors(dataset)
        ]
        lines.append([f"`{method}`", *("–" if s is None else f"{s.mean / 1000:,.0f}" for s in sent)])
    return markdown(["rule", *SETTINGS.values()], lines)


def _minilm(results: Results) -> str:
    lines = []
    for method in ("start", "geolora", "geodora", "fedit", "dora"):
        own, base = (accuracy(results, "minilm:tcga-brca-9 skewed", name) for name in (method, "fedit"))
        lines.append([f"`{method}`", figure(_mean(own)), "" if method == "fedit" else difference(_gain(own, base))])
    return markdown(["rule", "TCGA, 9, skewed", "− fedit"], lines)


def _shift(results: Results) -> str:
    lines = []
    for dataset, (title, direction) in SHIFTED.items():
        for way, meaning in WAYS.items():
            found = [accuracy(results, dataset, method + way, direction) for method in ("start", "geolora", "geodora")]
            lines.append([title, meaning, *(figure(_mean(f)) for f in found), difference(_gain(found[2], found[1]))])
    return markdown(
        ["sites", "what a site does about its sensor", "start", "geolora", "geodora", "geodora − geolora"], lines
    )


def _heads(results: Results) -> str:
    """Class directions by Laplace against means."""
    lines = []
    for dataset, title in SETTINGS.items():
        for base, when in (("start", "start"), ("geolora", "trained")):
            plain, laplace = (accuracy(results, dataset, name) for name in (base, f"{base} laplace"))
            if laplace:
                lines.append(
                    [title, when, figure(_mean(plain)), figure(_mean(laplace)), difference(_gain(laplace, plain))]
                )
    return markdown(["sites", "", "means", "Laplace", "difference"], lines)


def _goals(results: Results) -> str:
    """Before and after rounds of each goal, and what they change."""
    lines = []
    for setting, title in GOALS.items():
        line = [title]
        for goal in ("pairs", "classes"):
            before, after = (accuracy(results, setting, rule) for rule in (f"start {goal}", goal))
            line += [figure(_mean(before)), difference(_gain(after, before))]
        for goal in ("pairs", "classes"):
            for anchors in results.anchors(setting):
                line += [figure(results.mean(setting, f"start {goal}", anchors, "r1"))]
                line += [difference(results.gain(setting, goal, f"start {goal}", anchors, "r1"))]
        lines.append(line)
    heads = [f"{metric}, {goal}" for metric in ("accuracy", "R@1") for goal in ("pairs", "classes")]
    return markdown(["sites", *(text for head in heads for text in (head, "rounds"))], lines)


def _averages(results: Results) -> str:
    lines = []
    for kind, meaning in KINDS.items():
        samples = accuracy(results, f"doubt:{kind}", "samples")
        start = accuracy(results, f"doubt:{kind}", "start")
        gains = [difference(_gain(accuracy(results, f"doubt:{kind}", rule), samples)) for rule in RULES]
        lines.append([meaning, figure(_mean(start)), figure(_mean(samples)), *gains])
    return markdown(
        ["a third of 12 sites", "start", "samples", *(f"{name} − samples" for name in RULES.values())], lines
    )


def _controls(results: Results) -> str:
    lines = []
    for kind, meaning in KINDS.items():
        cells = []
        for rule in CONTROLLED:
            shuffles = [m for m in results.methods(f"doubt:{kind}") if m.startswith(f"{rule} ")]
            per_shuffle = [accuracy(results, f"doubt:{kind}", name) for name in shuffles]
            seeds = sorted(set.intersection(*map(set, per_shuffle))) if per_shuffle else []
            own = accuracy(results, f"doubt:{kind}", rule)
            mean = {seed: sum(found[seed] for found in per_shuffle) / len(per_shuffle) for seed in seeds}
            beaten = sum(own[seed] > found[seed] for found in per_shuffle for seed in found if seed in own)
            cells += [difference(_gain(own, mean)), f"{beaten} of {sum(map(len, per_shuffle))}"]
        lines.append([meaning, *cells])
    header = [cell for rule in CONTROLLED for cell in (f"{rule} − shuffled", f"shuffles that {rule} beats")]
    return markdown(["a third of 12 sites", *header], lines)


def _consensus(results: Results) -> str:
    lines = []
    for kind, meaning in KINDS.items():
        uniform, precise = (accuracy(results, f"consensus:{kind}", rule) for rule in ("uniform", "precision"))
        lines.append([meaning, figure(_mean(uniform)), figure(_mean(precise)), difference(_gain(precise, uniform))])
    return markdown(["a third of 12 sites", "equal", "by precision", "difference"], lines)


def _steps(results: Results) -> str:
    names = {
        "geolora": "GeoLoRA",
        "geodora": "GeoDoRA",
        "dora-factored": "DoRA, factored norm (2603.22276)",
        "peft-dora": "DoRA of PEFT",
    }
    columns = [("step_ratio", d) for d in ("16tok", "64tok")] + [("activation_ratio", d) for d in ("16tok", "64tok")]
    lines = [[title, *(_perf(results, name, *column) for column in columns)] for name, title in names.items()]
    return markdown(
        ["of PEFT's LoRA", "time, 16 tokens", "time, 64 tokens", "memory, 16 tokens", "memory, 64 tokens"], lines
    )


def _alignment(results: Results) -> str:
    lines = [
        [title, *(_perf(results, name, "step_ratio", f"{trunk}-256-anchors") for trunk in ("minilm", "small"))]
        for name, title in (("aligned", "6 anchors a step, the others as last seen"), ("aligned-whole", "all 256"))
    ]
    return markdown(["of a step without alignment terms", "MiniLM", "small trunk"], lines)


def _aggregation(results: Results) -> str:
    names = {"50x10MB": "50 of 10 MB, read from files", "50x20MB": "50 of 20 MB, read from files"}
    names["50x10MB-memory"] = "50 of 10 MB, in memory already"
    metrics = ("bandwidth_ratio", "peak_updates")
    lines = [
        [title, *(_perf(results, "aggregation", metric, direction) for metric in metrics)]
        for direction, title in names.items()
    ]
    return markdown(["updates", "bandwidth, of a plain sum's", "peak memory, in updates"], lines)


def _perf(results: Results, method: str, metric: str, direction: str) -> str:
    value = results.mean("perf", method, 0, metric, direction)
    return "–" if value is None else short(value.mean, 2)


def _anchor_batch(results: Results) -> str:
    lines = []
    for dataset, name in (("anchor-batch:tcga-brca", "r1"), ("anchor-batch:tcga-brca", "cka")):
        for method in results.methods(dataset):
            for anchors in results.anchors(dataset):
                own = results.mean(dataset, method, anchors, name)
                gain = results.gain(dataset, method, "128", anchors, name)
                lines.append([name, method, figure(own), "" if method == "128" else difference(gain)])
    return markdown(["figure", "anchors a step", "mean", "− 128"], lines)
