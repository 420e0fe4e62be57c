-- From a raw row to the network's features. DuckDB runs this for training; the exporter compiles it
-- into the graph that is served. Nothing here is learned from data.
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

  -- Water: the straight way to it, how steep that way is, and the height of its surface.
  sqrt(power(Horizontal_Distance_To_Hydrology, 2) + power(Vertical_Distance_To_Hydrology, 2)) AS distance_to_hydrology,
  Vertical_Distance_To_Hydrology / (Horizontal_Distance_To_Hydrology + 1.0) AS slope_to_hydrology,
  Elevation - Vertical_Distance_To_Hydrology AS elevation_of_hydrology,
  Elevation + Vertical_Distance_To_Hydrology AS elevation_plus_vertical_distance,
  Elevation - 0.2 * Horizontal_Distance_To_Hydrology AS elevation_less_distance_to_hydrology,
  Elevation - 0.02 * Horizontal_Distance_To_Roadways AS elevation_less_distance_to_roadways,
  Elevation - 0.02 * Horizontal_Distance_To_Fire_Points AS elevation_less_distance_to_fire_points,

  -- Sums and differences of the distances place a patch relative to water, roads and fire points.
  Horizontal_Distance_To_Hydrology + Horizontal_Distance_To_Roadways AS hydrology_plus_roadways,
  Horizontal_Distance_To_Hydrology - Horizontal_Distance_To_Roadways AS hydrology_less_roadways,
  Horizontal_Distance_To_Hydrology + Horizontal_Distance_To_Fire_Points AS hydrology_plus_fire_points,
  Horizontal_Distance_To_Hydrology - Horizontal_Distance_To_Fire_Points AS hydrology_less_fire_points,
  Horizontal_Distance_To_Roadways + Horizontal_Distance_To_Fire_Points AS roadways_plus_fire_points,
  Horizontal_Distance_To_Roadways - Horizontal_Distance_To_Fire_Points AS roadways_less_fire_points,

  -- Aspect is an angle: 359 degrees and 0 are neighbours; on flat ground it says little.
  sin(radians(Aspect)) AS eastness,
  cos(radians(Aspect)) AS northness,
  sin(radians(Slope)) * sin(radians(Aspect)) AS slope_to_east,
  sin(radians(Slope)) * cos(radians(Aspect)) AS slope_to_north,

  Hillshade_9am - Hillshade_Noon AS hillshade_9am_less_noon,
  Hillshade_Noon - Hillshade_3pm AS hillshade_noon_less_3pm,
  Hillshade_9am + Hillshade_Noon + Hillshade_3pm AS hillshade_sum,

  -- Soil types by climatic zone (first digit) and geologic zone (second digit) of their USFS Ecological
  -- Landtype Unit; covtype.info lists the codes. Subalpine and igneous, the zones of most rows, are the rest.
  Soil_Type1 + Soil_Type2 + Soil_Type3 + Soil_Type4 + Soil_Type5 + Soil_Type6 AS climate_lower_montane,
  Soil_Type7 + Soil_Type8 AS climate_montane_dry,
  Soil_Type9 + Soil_Type10 + Soil_Type11 + Soil_Type12 + Soil_Type13 AS climate_montane,
  Soil_Type14 + Soil_Type15 AS climate_montane_dry_and_montane,
  Soil_Type16 + Soil_Type17 + Soil_Type18 AS climate_montane_and_subalpine,
  Soil_Type35 + Soil_Type36 + Soil_Type37 + Soil_Type38 + Soil_Type39 + Soil_Type40 AS climate_alpine,
  Soil_Type9 + Soil_Type22 + Soil_Type23 AS geology_glacial,
  Soil_Type14 + Soil_Type15 + Soil_Type16 + Soil_Type17 + Soil_Type19 + Soil_Type20 + Soil_Type21 AS geology_alluvium
FROM raw
