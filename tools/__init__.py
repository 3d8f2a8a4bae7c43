"""What writes the documents' tables, pages and receipts: started in a checkout as ``python -m tools.NAME``."""
