import pytest

from pyro_vae.registry import Registry, nearest


@pytest.fixture
def shelf():
    shelf = Registry("colour")

    @shelf.register
    class DarkRed:
        """The colour of wine.

        And of bricks.
        """

    @shelf.register("sky")
    def some_function():
        """The colour above."""

    return shelf


def test_class_names_become_snake_case_and_given_names_are_kept(shelf):
    assert list(shelf) == ["dark_red", "sky"]
    assert len(shelf) == 2
    assert "sky" in shelf


@pytest.mark.parametrize(
    ("written", "name"),
    [("Normal", "normal"), ("StudentT", "student_t"), ("VonMises3D", "von_mises3_d")],
)
def test_snake_case(written, name):
    shelf = Registry("thing")
    item = type(written, (), {"__doc__": "A thing."})
    assert shelf.register(item) is item
    assert list(shelf) == [name]


def test_look_up_gives_the_item_itself_and_its_name(shelf):
    item = shelf["dark_red"]
    assert item.__name__ == "DarkRed"
    assert shelf.name_of(item) == "dark_red"
    assert shelf.name_of(shelf["sky"]) == "sky"


def test_summary_is_the_first_line(shelf):
    assert shelf.summary("dark_red") == "The colour of wine."


def test_unknown_name_is_answered_with_the_nearest(shelf):
    with pytest.raises(KeyError, match=r"no colour is named 'dark_rad'.*mean 'dark_red'.*sky"):
        shelf["dark_rad"]


def test_taken_name_is_refused_with_both_places(shelf):
    with pytest.raises(ValueError, match=r"named 'sky' is registered already \(test_registry"):

        @shelf.register("sky")
        def other():
            """Another."""

    assert shelf["sky"].__name__ == "some_function"


def test_item_without_docstring_is_refused(shelf):
    with pytest.raises(ValueError, match=r"'plain'.*no docstring.*write one"):

        @shelf.register
        def plain():
            pass

    assert "plain" not in shelf


def test_inherited_docstring_does_not_count(shelf):
    with pytest.raises(ValueError, match="has no docstring"):

        @shelf.register
        class Crimson(shelf["dark_red"]):
            pass


def test_name_of_a_stranger_is_an_error(shelf):
    with pytest.raises(KeyError, match=r"int is not a registered colour"):
        shelf.name_of(int)


def test_registry_is_read_only(shelf):
    with pytest.raises(TypeError):
        shelf["green"] = object()
    with pytest.raises(TypeError):
        del shelf["sky"]


def test_repr(shelf):
    assert repr(shelf) == "Registry('colour': dark_red, sky)"
    assert repr(Registry("colour")) == "Registry('colour': empty)"


def test_nearest_asks_only_if_something_is_near():
    assert nearest("normale", ["normal", "beta"]) == "Did you mean 'normal'? Known: beta, normal."
    assert nearest("xyz", ["normal", "beta"]) == "Known: beta, normal."
