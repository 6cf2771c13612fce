"""How good a network is: metrics and what an evaluation leaves."""
