"""The heatmap: what it shows in each cell, how it is framed, and what it refuses."""

import builtins

import matplotlib
import numpy as np
import pytest
import xarray as xr

from pyro_vae import plots

GUIDES = ["normal", "gamma", "one_hot_categorical", "broken"]
PRIORS = ["laplace", "gamma", "one_hot_categorical"]


@pytest.fixture
def table():
    nan = float("nan")
    cells = {
        "elbo_per_datum": [[-20.5, nan, nan], [-26, -21.25, nan], [nan, nan, -24], [nan] * 3],
        "admissible": [[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]],
        "kl_route": [
            ["closed", "", ""],
            ["infinite", "sampled", ""],
            ["", "", "closed"],
            [""] * 3,
        ],
        "mean_field_route": [
            ["analytic", "", ""],
            ["fallback", "fallback", ""],
            ["", "", "refused"],
            [""] * 3,
        ],
        "failure": [[""] * 3, [""] * 3, [""] * 3, ["RuntimeError: broken", "", ""]],
    }
    dims = ("guide", "prior")
    table = xr.Dataset(
        {name: (dims, values) for name, values in cells.items()},
        {
            "guide": GUIDES,
            "prior": PRIORS,
            "guide_space": ("guide", ["real line", "positive half-line", "one-hot vectors", "?"]),
            "prior_space": ("prior", ["real line", "positive half-line", "one-hot vectors"]),
        },
    )
    table["elbo_per_datum"].attrs = {"long_name": "ELBO per held-out datum", "units": "nats"}
    table["elbo_per_datum"][1, 0] = -np.inf
    return table


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_cell_shows_its_number_its_route_or_why_it_has_none(table):
    shown = texts(plots.heatmap(table))
    for text in ("−20.50", "−21.25", "−24.00", "−∞", "failed", "closed", "sampled", "infinite"):
        assert text in shown
    assert shown.count("–") == int((table.admissible == 0).sum())


def test_the_frame_names_guides_priors_spaces_and_units(table):
    figure = plots.heatmap(table)
    axes, bar = figure.axes
    assert axes.get_title(loc="left") == "ELBO per held-out datum (nats)"
    assert bar.get_ylabel() == "nats"
    assert [label.get_text() for label in axes.get_yticklabels()] == GUIDES
    labels = [label.get_text().replace("\n", "") for label in axes.get_xticklabels()]
    assert labels == PRIORS
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prior p(z)", "guide q(z|x)")
    assert {"real line", "positive\nhalf-line", "one-hot\nvectors"} <= set(texts(figure))


def test_the_legend_explains_every_mark_that_occurs_and_no_other(table):
    def legend(drawn):
        found = plots.heatmap(drawn).legends
        return [text.get_text() for text in found[0].get_texts()] if found else []

    assert legend(table)[1:] == [plots.FALLBACK, plots.REFUSED, "–  not admissible"]
    good = table.isel(guide=[0], prior=[0])
    assert legend(good) == ["below the number: the route of KL(q || p)"]
    assert legend(good[["elbo_per_datum"]]) == []


def test_refused_cells_are_striped(table):
    striped = [p for p in plots.heatmap(table).axes[0].patches if p.get_hatch()]
    assert [patch.get_xy() for patch in striped] == [(2, 2)]


def test_ink_is_dark_on_light_and_light_on_dark(table):
    ink = {t.get_text(): t.get_color() for t in plots.heatmap(table).axes[0].texts}
    assert (ink["−20.50"], ink["−24.00"]) == ("black", "white")


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "infinite"])
def test_a_table_without_a_finite_number_is_drawn_without_colour_bar(value):
    table = xr.Dataset({"v": (("guide", "prior"), [[value]])}, {"guide": ["a"], "prior": ["b"]})
    figure = plots.heatmap(table, "v")
    assert texts(figure) == ["none" if np.isnan(value) else "∞"]
    assert len(figure.axes) == 1


def test_a_variable_by_elbo_is_drawn_for_one_at_a_time(table):
    table["gradient_snr"] = (("guide", "prior", "elbo"), np.arange(24.0).reshape(4, 3, 2))
    table = table.assign_coords(elbo=["Trace_ELBO", "TraceMeanField_ELBO"])
    with pytest.raises(ValueError, match=r'gradient_snr has dims .*sel\(elbo="Trace_ELBO"\)'):
        plots.heatmap(table, "gradient_snr")
    assert "1.00" in texts(plots.heatmap(table.sel(elbo="TraceMeanField_ELBO"), "gradient_snr"))


def test_an_unknown_variable_is_answered_with_the_known_ones(table):
    with pytest.raises(ValueError, match="no variable 'elbo'; numbers: elbo_per_datum"):
        plots.heatmap(table, "elbo")


def test_png_is_a_png_and_no_window_system_or_pyplot_is_touched(table):
    def settings():
        # to look at the backend's own entry would choose one
        others = {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != "backend"}
        return matplotlib.get_backend(auto_select=False), others

    before = settings()
    picture = plots.png(plots.heatmap(table))
    assert picture.startswith(b"\x89PNG\r\n")
    assert settings() == before


def test_without_matplotlib_the_error_says_what_to_install(table, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r'pip install "pyro-vae\[plots\]"'):
        plots.heatmap(table)


def test_colours_of_many_numbers_are_not_taken_by_the_lowest():
    values = np.linspace(-20.0, -10.0, 100).reshape(10, 10)
    values[0, 0] = -1e6
    names = [str(i) for i in range(10)]
    table = xr.Dataset({"elbo": (("guide", "prior"), values)}, {"guide": names, "prior": names})
    bar = plots.heatmap(table, "elbo").axes[1]
    assert -20.0 < bar.get_ylim()[0] < -18.0
    few = plots.heatmap(table.isel(guide=slice(4)), "elbo").axes[1]
    assert few.get_ylim()[0] == -1e6
