"""Files of weights: reading, telling apart, converting, saving, describing."""
