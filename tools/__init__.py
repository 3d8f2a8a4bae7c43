"""What writes the documents' tables, pages and receipts: started in a checkout as ``python -m tools.NAME``."""


def between(page: str, name: str, table: str) -> str:
    """A page with this table between the comments ``name`` and ``end``."""
    begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
    head, _, rest = page.partition(begin)
    return f"{head}{begin}{table}{end}{rest.partition(end)[2]}"
