"""How near generated replies are to a person's own: style, authorship, faults and bits per character.

Pure functions on texts: nothing here knows of models, prompts or files. A reply is a sequence of bubbles. The same
replies give the same figures in whatever order they come.

A figure alone says little, so two more stand beside it: *own*, the person's replies that were learnt from against those
held out (as near as generated replies can hope to come), and *others*, what other people wrote in the same threads.
``yardstick`` puts it all together.
"""
