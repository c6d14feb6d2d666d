"""How well a trained decoder predicts text it was not trained on."""
