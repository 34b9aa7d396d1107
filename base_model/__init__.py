"""The base model: find it, load it, say exactly which one it is. Imports none of the other packages."""
