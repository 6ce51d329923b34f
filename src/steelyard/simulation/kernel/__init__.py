"""The compiled event kernel."""
