"""A plug-in of steelyard with one of everything."""
