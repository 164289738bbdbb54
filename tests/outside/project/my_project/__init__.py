"""A project of somebody else: its plugins are named by the dotted names of their modules."""
