"""How long something takes, and what of the machine it uses: clocks, rounds, load, energy, peaks. Nothing here knows a recipe."""
