"""Label text as a parameter of fit."""


class LabelText:
    """Texts of the labels that scikit-learn passes on as they are.

    `GridSearchCV` and the cross-validation functions split every fit parameter that has as many
    entries as there are rows. Texts of labels have one entry a label; wrapped in this class they
    are left alone even where the two numbers are equal.

    Parameters
    ----------
    texts : list of str, or array or sparse array of shape (n_labels, any)
        What a fit parameter ``label_text`` takes.

    Attributes
    ----------
    texts : as given

    Examples
    --------
    >>> from skxmc.label_space import LabelText
    >>> LabelText(["red", "green"]).texts
    ['red', 'green']
    """

    def __init__(self, texts):
        self.texts = texts

    def __repr__(self):
        return f"LabelText({type(self.texts).__name__})"
