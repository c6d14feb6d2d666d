"""Rules that need something from whoever asks for them: a field of the document, a list, languages. One file each.

They look like the rules of `ptool.filtering.rules`, but have no meaning without their parameters, so no preset has
them. A list is named with its digest in the manifest: the same recipe with another list is other work.
"""
