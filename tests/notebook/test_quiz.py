"""The questions: five a notebook, one right option each, a reason behind every option, readable without scripts."""

from html.parser import HTMLParser

import pytest

from tools.notebooks import NOTEBOOKS
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.notebook import quiz

NUMBERS = sorted(path.stem[:2] for path in quiz.FOLDER.glob("*.toml"))


class Reader(HTMLParser):
    """Opened and closed elements, and the texts in each kind."""

    def __init__(self):
        super().__init__()
        self.stack, self.texts, self.seen = [], {}, []

    def handle_starttag(self, tag, attrs):
        self.stack.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.stack[-1], []).append(data)


@pytest.mark.parametrize("number", NUMBERS)
class TestQuestions:
    def test_five_with_one_right_option_and_reasons(self, number):
        asked = quiz.questions(number)
        assert len(asked) == 5 == len({question.text for question in asked})
        for question in asked:
            assert question.text.endswith("?") or question.text.endswith("true?")
            assert [option.right for option in question.options].count(True) == 1
            assert len(question.options) >= 3 == min(3, len({option.text for option in question.options}))
            assert all(len(option.why) > 30 and option.why.endswith((".", "?")) for option in question.options)

    def test_every_option_is_in_the_page(self, number, monkeypatch):
        shown = []
        monkeypatch.setattr(quiz, "display", lambda data, raw: shown.append(data))
        quiz.quiz(number)
        reader = Reader()
        reader.feed(shown[0]["text/html"])
        options = [option for question in quiz.questions(number) for option in question.options]
        assert reader.texts["summary"] == [option.text for option in options] and not reader.stack
        assert [text == "Right." for text in reader.texts["b"] if text in ("Right.", "No.")] == [
            o.right for o in options
        ]
        assert not {"script", "input", "style"} & set(reader.seen)

    def test_the_notebook_asks_them_at_its_end(self, number):
        (path,) = NOTEBOOKS.glob(f"src/{number}_*.py")
        cells = path.read_text(encoding="utf-8").split("\n# %%")
        assert f'quiz("{number}")' in "".join(cells[-4:])


def test_the_right_option_is_not_always_in_the_same_place():
    places = [[o.right for o in q.options].index(True) for number in NUMBERS for q in quiz.questions(number)]
    assert all(places.count(place) < 0.6 * len(places) for place in range(3))
    longest = [max(q.options, key=lambda o: len(o.text)).right for number in NUMBERS for q in quiz.questions(number)]
    assert sum(longest) < 0.7 * len(longest), "the longest option is right too often"


@pytest.mark.parametrize("number", ["99", "2", 2, None, "../02"])
def test_questions_of_no_notebook_are_refused(number):
    with pytest.raises(InputError, match=r"no questions of a notebook .*: expected one of 00, 01"):
        quiz.quiz(number)
