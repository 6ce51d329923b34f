"""Readers of measured tables: each maps rows to the questions Steelyard answers, and puts both answers side by side."""
