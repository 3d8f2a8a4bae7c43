"""Receipts: JSON documents that bind what was measured to what it was measured on (in-toto Statements), and everything
that is done with them: made (``statement``, ``probe``), read (``document``), verified (``verify``), signed (``sign``),
listed (``store``), compared (``diff``) and shown (``page``).
"""
