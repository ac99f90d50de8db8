"""Results for people: comparisons and diagnoses, as text and as self-contained pages."""

from pyro_vae.report.comparison import markdown, page, table
from pyro_vae.report.diagnosis import diagnosis_page
from pyro_vae.report.html import require_tabulate

__all__ = ["diagnosis_page", "markdown", "page", "require_tabulate", "table"]
