"""The chips that fxsnn knows: one file a target, each with one `TARGET`. They are found by listing this folder."""

if __name__ != "fxsnn.hwtargets":
    raise ImportError("this is the package fxsnn.hwtargets: import it by that name")
