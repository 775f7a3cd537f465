# extractCutouts on the images of Data Preview 1 (LSSTComCam).
config.connections.inputImage = "visit_image"
config.input_storage_class = "ExposureF"
