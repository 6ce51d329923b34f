"""Answers for people and programs: tables, JSON, later figures and files."""
