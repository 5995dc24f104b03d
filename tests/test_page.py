"""The page of a run, from folders written by hand: each test changes what it is about and leaves the rest."""

import html
import json
import re
import shutil
import subprocess

import pytest
from page_files import KINDS, NODES, SECTIONS, TERMS, check, make, run_files, sections, visible

from isogram.methods import METHODS, RECIPES
from isogram.report import figures, words
from isogram.report.record import Record
from isogram.report.sections import traffic


def test_a_complete_run_has_every_section(tmp_path):
    text = make(tmp_path, run_files(terms=TERMS))
    check(text)
    assert sections(text) == SECTIONS
    read = visible(text)
    assert "This run aligns 4 nodes of tcga-brca with rna, meth and mirna through 100 public anchors" in read
    assert "it is complete" in read and "Started 2026-11-25 01:20 UTC" in read
    assert "PAM50 meth. is contaminated" in read and "isogram run runs/try/config.toml --set name=try-again" in read
    assert all(f"Loss term {term}, mean over nodes" in text for term in TERMS)
    assert read.count("✓ same row") == 6 and text.count("<svg") == 5 + 3 + 3 + 2 + (1 + 3) + 3
    assert len(text.encode()) < 400_000


def test_the_strip_compares_training_with_its_start_and_chance(tmp_path):
    read = visible(make(tmp_path, run_files()))
    r1 = METHODS.index("isogram") / 20, METHODS.index("closed-form") / 20
    assert f"R@1 after training .{r1[0] * 1000:.0f} before rounds .{r1[1] * 1000:.0f}, chance .033" in read
    assert "Measured on 30 held-out rows." in read
    assert "sent by a node 81 kB 20.2 kB of it for alignment" in read
    assert "from the doctor 1 warning" in read and "public anchors 100 30 suspicious" in read


def test_a_run_that_is_to_classify_is_judged_by_classes_first_and_says_its_fit(tmp_path):
    files = run_files()
    files["run.json"] |= {"goal": "classes", "fit": "linear kernel, ridge 0.1"}
    read = visible(make(tmp_path, files))
    assert "PAM50 accuracy after training .500 before rounds .500" in read and "R@1 after" not in read
    assert "for 2 rounds, to classify" in read and "Fit of each node: linear kernel, ridge 0.1." in read


def test_the_best_is_marked_by_a_sign_and_bounds_never_are(tmp_path):
    files = run_files()
    text = make(tmp_path, files)
    lines = {
        re.search(r"<th scope=\"row\">([\w+-]+)", line)[1]: line for line in text.split("<tr")[1:] if "about" in line
    }
    r1 = {
        name: re.findall(r"<td class=\"(num(?: best)?)\">", line)[0] for name, line in lines.items() if name in METHODS
    }
    assert len(r1) == len(METHODS) and [name for name, kind in r1.items() if kind == "num best"] == ["isogram+oneshot"]
    assert "★" in lines["isogram+oneshot"] and "★" not in "".join(lines[name] for name in words.BOUNDS)


def test_every_method_is_explained():
    assert tuple(words.METHODS) == METHODS
    assert tuple(name for recipe in RECIPES if recipe.bound for name in recipe.names) == words.BOUNDS


def test_without_training_the_run_is_its_alignment(tmp_path):
    files = run_files()
    files["run.json"] |= {"round": 0, "rounds": 0}
    files["config.toml"] = "[align]\nmetric = false\n"
    files["results.jsonl"] = [r for r in files["results.jsonl"] if r["method"] in ("oneshot", "oneshot-hsic")]
    files["metrics.jsonl"] = [m for m in files["metrics.jsonl"] if not m["metric"].startswith("loss/")]
    del files["evaluation.json"]["cka"]["trained"]
    text = make(tmp_path, files)
    read = visible(text)
    assert "oneshot, this run" in read and "oneshot-hsic, this run" not in read
    assert "R@1 after one-shot alignment" in read and "training" not in sections(text)
    assert "without training; it is complete" in read and "After training" not in read


def test_a_run_without_training_is_the_closed_form(tmp_path):
    files = run_files()
    files["run.json"] |= {"round": 0, "rounds": 0}
    files["results.jsonl"] = [r for r in files["results.jsonl"] if r["method"] in ("oneshot-hsic", "closed-form")]
    files["metrics.jsonl"] = [m for m in files["metrics.jsonl"] if not m["metric"].startswith("loss/")]
    del files["evaluation.json"]["cka"]["trained"]
    read = visible(make(tmp_path, files))
    assert "closed-form, this run" in read and "oneshot-hsic, this run" not in read


def test_findings_stand_worst_first_with_level_and_remedy_in_words(tmp_path):
    files = run_files()
    files["doctor.json"]["findings"].append(
        {"level": "error", "where": "node b", "what": "is empty", "remedy": "fill it"}
    )
    read = visible(make(tmp_path, files))
    assert "The doctor: 1 error" in read
    places = [read.index(line) for line in ("✗ error node b : is empty What to do: fill it", "! warning", "· note")]
    assert places == sorted(places)


def test_the_doctor_s_tables_say_only_what_was_tested(tmp_path):
    read = visible(make(tmp_path, run_files()))
    assert "rna – meth 100 .970 .800 .050 .400 26.6 <.001 aligned" in read
    assert "rna – mirna 100 – – – – – – untested" in read
    assert "rna 95 100 0 6,000 1 rna-1, rna-2" in read and "rna anchor-8 anchor-9" in read
    assert "the first 20 of 30" in read and "anchor-19" in read and "anchor-20" not in read


def test_hostile_names_are_text(tmp_path):
    evil = '<script>alert("1")</script>'
    nodes = {evil: "$\\frac{", "b&amp;": "</svg><b>", "名前 \x07": '" onload="x', "a" * 300: "rna"}
    files = run_files(classes=(evil, "</style>", "{{ 7 * 7 }}"), nodes=nodes)
    files["run.json"] |= {"name": evil, "notes": [evil]}
    files["config.toml"] += f"# {evil}\n"
    files["doctor.json"]["findings"][0] |= {"level": '"><b>', "where": evil, "what": evil, "remedy": evil}
    files["environment.json"]["packages"] = {evil: evil}
    outline = check(make(tmp_path, files))
    assert "b" not in outline.tags
    read = visible((tmp_path / "report.html").read_text())
    assert read.count(evil) > 10 and "{{ 7 * 7 }}" in read and "b&amp;" in read


def test_the_second_gram_and_the_frame_are_booked_as_alignment(tmp_path):
    files = run_files()
    one = {"direction": "up", "node": "rna-1", "field": "gram", "shape": [3], "bytes": 1000}
    files["messages.jsonl"] = [one | {"round": r} for r in (0, 1, 2)]
    make(tmp_path, files)
    found = traffic(Record.read(tmp_path))
    assert found["heads"] == ["alignment, sent", "alignment, received", "training, sent", "training, received"]
    assert found["total"] == ["2.0", "–", "1.0", "–"]


def test_unpaired_rows_are_right_by_class_and_judged_by_accuracy(tmp_path):
    files = run_files()
    files["evaluation.json"] |= {"paired": False}
    files["evaluation.json"]["cka"] |= {"on": "public anchors", "aligned": [[None] * 4] * 4}
    kept = [row | {"metric": "accuracy"} for row in files["results.jsonl"] if row["metric"] == "pam50"]
    files["results.jsonl"] = kept + [row | {"direction": "rna:elsewhere"} for row in kept if row["direction"] == "rna"]
    text = make(tmp_path, files)
    check(text)
    read = visible(text)
    assert "✓ same class" in read and "✓ same row" not in read and "R@1" not in read.split("The doctor")[0]
    assert "accuracy after training .500 before rounds .500, chance .500" in read
    assert "Measured on held-out rows (30 of rna, 30 of meth, 30 of mirna)." in read
    assert "accuracy rna, labelled elsewhere" in read and "new rows would look worse" in read
    assert "after alignment" not in read.split("Means over pairs")[0] and "rna – meth .37 – .37" in read


def test_without_held_out_rows_only_bytes_are_told(tmp_path):
    files = run_files()
    files["results.jsonl"] = [r for r in files["results.jsonl"] if r["metric"] in ("bytes_per_node", "seconds")]
    text = make(tmp_path, files)
    check(text)
    assert "There are no held-out rows" in visible(text) and "R@1" not in visible(text).split("The doctor")[0]


def test_twelve_classes_and_unknown_ones_can_be_told_apart(tmp_path):
    files = run_files(classes=tuple(f"class {i}" for i in range(12)))
    files["evaluation.json"]["map"]["meth"]["label"] = [-1] * 30
    text = make(tmp_path, files)
    check(text)
    assert "30 rows, classes unknown" in visible(text) and re.search(r"class-unknown.*?</span>unknown", text, re.DOTALL)
    keys = [re.sub(r'"class-\d+-|"#class-\d+-', '"', str(figures.class_key(number))) for number in range(88)]
    assert len({re.sub(r"m[0-9a-f]{10}", "", key) for key in keys}) == 88
    assert len({(figures.COLOURS[i % 8], figures.MARKERS[i % 11]) for i in range(88)}) == 88


def test_nodes_that_were_left_out_are_told_also_without_training(tmp_path):
    files = run_files()
    line = "node 'rna-1' sent a Gram that has nothing to do with the others': it is left out; look at <its> anchors"
    files["run.json"] |= {"refused": [line, "node 'b' lies", line]}
    files["metrics.jsonl"] = []
    text = make(tmp_path, files)
    assert "look at &lt;its&gt; anchors (2 times)" in text and "<li>node &#39;b&#39; lies</li>" in text
    assert 'href="#left-out"' in text and 'id="training"' not in text
    assert 'id="left-out"' not in make(tmp_path, run_files())


def test_many_rows_are_thinned_out_and_the_page_says_so(tmp_path):
    text = make(tmp_path, run_files(rows=5000))
    assert "385 of 5,000 rows" in visible(text) and len(text.encode()) < 1_000_000


def test_a_large_federation_stays_small(tmp_path):
    nodes = {f"node-{i}": KINDS[i % 3] for i in range(30)}
    text = make(tmp_path, run_files(nodes=nodes))
    check(text)
    assert len(text.encode()) < 3_000_000


def test_losses_that_are_no_numbers_do_not_stop_the_page(tmp_path):
    files = run_files()
    for entry in files["metrics.jsonl"]:
        entry["value"] = float("nan")
    text = make(tmp_path, files)
    check(text)
    assert sections(text) == SECTIONS


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    first, second = (make(tmp_path / name, run_files()) for name in ("one", "two"))
    assert first == second


def test_numbers_of_a_heat_map_can_be_read_on_every_colour():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    values = [[(7 * i + j) / 48 for j in range(7)] for i in range(7)]
    drawn = str(figures.heat_map("h", "a heat map", list("abcdefg"), {"rna": 7}, values))
    cells = re.findall(r'<path d="[^"]*" style="fill: (#\w+)', drawn)
    texts = re.findall(r'<text style="[^"]*?(?:fill: (#\w+))?"[^>]*>[.\d]+</text>', drawn)
    assert len(cells) == len(texts) == 49
    for cell, text in zip(cells, texts, strict=True):
        dark, light = sorted((luminance(cell), luminance(text or "#000000")))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_shows_it_on_phone_and_desktop_without_sideways_scrolling_or_network(tmp_path):
    files = run_files(nodes=NODES | {"a-hospital-with-quite-a-long-name": "rna"})
    files["doctor.json"]["findings"][0]["what"] = "x" * 400
    make(tmp_path, files)
    (tmp_path / "wrapper.html").write_text(
        """<!doctype html><body><script>
        let left = 2;
        for (const width of [375, 1280]) {
          const frame = document.createElement("iframe");
          frame.style.width = width + "px";
          frame.onload = () => {
            const { documentElement: root, fonts } = frame.contentDocument, view = frame.contentWindow;
            const drawn = [...root.querySelectorAll(".panel svg")].map(svg => svg.getBoundingClientRect().height);
            document.body.dataset["w" + width] = JSON.stringify({
              inner: view.innerWidth, scroll: root.scrollWidth, smallest: Math.min(...drawn),
              fetched: view.performance.getEntriesByType("resource").length,
            });
          };
          frame.src = "report.html";
          document.body.append(frame);
        }
        </script></body>"""
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--allow-file-access-from-files"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        ["chromium", *flags, (tmp_path / "wrapper.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = {w: json.loads(html.unescape(t)) for w, t in re.findall(r'data-w(\d+)="([^"]*)"', done.stdout)}
    assert set(found) == {"375", "1280"}
    for width, page in found.items():
        assert page["inner"] == int(width) and page["scroll"] <= page["inner"]
        assert page["fetched"] == 0 and page["smallest"] > 50
