"""One file a source: an export of some program -> normalised records. ``registry.SOURCES`` lists them.

``outcome`` is what readers yield, ``options`` what the user tells them, ``export`` and ``json_stream`` how files are
read. A reader never guesses who "me" is: it is told, the export says so, or it asks.
"""
