# injectTnos for images that have stars, as visit images do: a classifier that
# saw no object brighter than S/N 12 takes all that are for stars.
for name in ("linear", "orbits"):
    config.population[name].snr_max = 60.0
