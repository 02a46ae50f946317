"""What a report of recognition says in tables: accuracy, neighbours, separation, other skies."""

from collections.abc import Sequence

from markupsafe import Markup

from foreglow.report.page.cleaning import cleaning_rows, cleaning_table
from foreglow.report.page.page import render
from foreglow.report.page.tables import (
    Record,
    accuracy_rows,
    html_table,
    method_rows,
    method_table,
)
from foreglow.report.recognition.neighbours import layout_rows, layout_table
from foreglow.report.recognition.robustness import law_rows, law_table
from foreglow.report.recognition.survey import survey_sections


def recognition_sections(records: Sequence[Record]) -> Markup:
    """Sections of HTML for the records of recognition; empty for other records."""
    cleaned = cleaning_rows(records)
    return render(
        "recognition",
        noiseless=html_table(accuracy_rows(records, 2)),
        noisy=html_table(accuracy_rows(records, 3)),
        methods=method_table(method_rows(records)),
        layouts=layout_table(layout_rows(records)),
        cleaning=cleaning_table(cleaned),
        cleaned=next(iter(cleaned), None),
        laws=law_table(law_rows(records)),
    ) + survey_sections(records)
