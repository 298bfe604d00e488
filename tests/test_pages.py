"""Methods and rankings are found by name, and what is none is refused in words."""

import pytest

from lofit import LofitError, methods, rankings
from lofit.pages import find_page, page_names
from lofit.settings import Settings


def test_every_page_is_found_and_holds_what_its_package_says():
    assert {"jola", "lofit", "loreft", "none", "red"} <= set(methods.names()) == set(page_names("lofit.methods"))
    for page in map(methods.find, methods.names()):
        assert issubclass(page.Settings, Settings) and callable(page.fit)
        assert page.RANKING is None or page.RANKING in rankings.names()
    assert {"from_task", "listed", "random", "random_same_layers", "scale_norm"} <= set(rankings.names())
    for page in map(rankings.find, rankings.names()):
        assert issubclass(page.Settings, Settings) and callable(page.rank)
        assert page.NEEDS in rankings.NEEDS


@pytest.mark.parametrize("name", ["best", "", "lofit.settings", "../settings", "Lofit", "no page", "__init__x"])
def test_what_is_no_page_is_one_line_with_those_that_there_are(name):
    with pytest.raises(LofitError) as caught:
        find_page("lofit.methods", name, what="method")
    assert str(caught.value) == f"method: got {name!r}; expected {', '.join(methods.names())}"
    with pytest.raises(LofitError, match=r"^ranking: got .*; expected .*listed.*scale_norm"):
        rankings.find(name)


def test_a_new_file_is_a_new_page(tmp_path, monkeypatch):
    package = tmp_path / "some_pages"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text("ANSWER = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert page_names("some_pages") == ["mine"]
    assert find_page("some_pages", "mine", what="page").ANSWER == 42
    with pytest.raises(LofitError, match=r"^page: got 'yours'; expected mine$"):
        find_page("some_pages", "yours", what="page")
