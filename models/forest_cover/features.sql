SELECT
  Elevation,
  Aspect,
  Slope,
  Horizontal_Distance_To_Hydrology,
  Vertical_Distance_To_Hydrology,
  Horizontal_Distance_To_Roadways,
  Hillshade_9am,
  Hillshade_Noon,
  Hillshade_3pm,
  Horizontal_Distance_To_Fire_Points,
  COLUMNS('Wilderness_Area.*'),
  COLUMNS('Soil_Type.*'),
  sqrt(power(Horizontal_Distance_To_Hydrology, 2) + power(Vertical_Distance_To_Hydrology, 2)) AS distance_to_hydrology
FROM raw
