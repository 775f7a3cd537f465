# extractCutouts on the simulated images of Data Preview 0.2 (DC2).
config.connections.inputImage = "calexp"
config.input_storage_class = "ExposureF"
# Simulated detectors have no planes for what only real ones do.
config.bad_planes = ["BAD", "COSMIC_RAY", "SUSPECT", "UNMASKED_NAN"]
