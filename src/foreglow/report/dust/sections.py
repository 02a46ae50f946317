"""What a report of predicted dust says in tables: correlations, ablations, errors, cleaning."""

from collections.abc import Sequence

from markupsafe import Markup

from foreglow.report.dust.sphere import sphere_table
from foreglow.report.dust.tables import (
    cleaning_table,
    correlation_rows,
    correlation_table,
    coverage_table,
    polarised_cleaning_table,
    polarised_rows,
    polarised_table,
    unpredictable_table,
)
from foreglow.report.page.page import render
from foreglow.report.page.tables import Record


def dust_sections(records: Sequence[Record]) -> Markup:
    """Sections of HTML for the records of predicted dust; empty for other records."""
    steps = ("models", "ceiling", "east_west", "lambda", "ablations")
    return render(
        "dust",
        correlations={s: correlation_table(correlation_rows(records, s)) for s in steps},
        unpredictable=unpredictable_table(records),
        coverage=coverage_table(records),
        cleaning=cleaning_table(records),
        polarisation=polarised_table(polarised_rows(records)),
        polarised_cleaning=polarised_cleaning_table(records),
        polarised_cleaned=next((r for r in records if r.get("step") == "polarised_cleaning"), None),
        sphere=sphere_table(records),
        cleaned=next((r for r in records if r.get("step") == "cleaning"), None),
    )
