"""The settings of the models: one file and one class a model, named as the model's own file.

Free of torch, so that a wrong setting is refused before it is loaded.
"""
