import pandas as pd

from benchmarks.paper import structure, structure_page, treebank

CONLLU = """# newdoc
# text = It's the cat.
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_
1\tIt\tit\tPRON\t_\t_\t4\tnsubj\t_\t_
2\t's\tbe\tAUX\t_\t_\t4\tcop\t_\t_
3\tthe\tthe\tDET\t_\t_\t4\tdet\t_\t_
4\tcat\tcat\tNOUN\t_\t_\t0\troot\t_\t_
5\t.\t.\tPUNCT\t_\t_\t4\tpunct\t_\t_

# no text here
1\ta\ta\tDET\t_\t_\t0\troot\t_\t_
"""


def test_words_of_a_sentence_are_found_where_they_stand():
    [(text, words)] = treebank.sentences(CONLLU)
    assert text == "It's the cat."
    assert [text[start:end] for start, end, _ in words] == ["It", "'s", "the", "cat", "."]
    assert [columns[3] for *_, columns in words] == ["PRON", "AUX", "DET", "NOUN", "PUNCT"]


def test_a_part_that_is_there_is_not_measured_again(tmp_path, monkeypatch):
    calls = []

    def measure():
        calls.append("measured")
        return {"methods": pd.DataFrame({"method": ["codes"], "ami": [0.5]})}, {"n_tokens": 7}

    monkeypatch.setattr(structure, "PARTS", tmp_path)
    monkeypatch.setattr(structure, "parts", lambda: {"collapse-toy world-0": measure})
    structure.run([])
    structure.run(["collapse"])
    assert calls == ["measured"]
    tables, about = structure.measured("collapse-toy world")["0"]
    assert about == {"n_tokens": 7}
    assert tables["methods"].to_dict("records") == [{"method": "codes", "ami": 0.5}]


def test_what_a_person_wrote_on_the_page_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(structure_page, "RESULTS", tmp_path)
    page = tmp_path / "structure.md"
    page.write_text(f"# Mine\n\nA remark.\n\n{structure_page.MARK}\n\nold tables\n")
    structure_page.write(["## New"], [0])
    written = page.read_text()
    assert written.startswith("# Mine\n\nA remark.\n\n")
    assert written.endswith("## New\n")
    assert "old tables" not in written
