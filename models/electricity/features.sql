-- From a raw half-hour of the market to the network's features.
SELECT
  feat_1,
  feat_2,
  feat_3,
  feat_4,
  feat_5,
  feat_6,
  -- The half-hour of the day is an angle: midnight follows 23:30.
  sin(6.283185307179586 * feat_1) AS half_hour_sin,
  cos(6.283185307179586 * feat_1) AS half_hour_cos,
  feat_3 - feat_5 AS demand_less_demand_in_victoria,
  feat_2 - feat_4 AS price_less_price_in_victoria
FROM raw
