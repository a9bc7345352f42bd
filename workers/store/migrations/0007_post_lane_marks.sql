-- Admission walks `deliveries_position`.
DROP INDEX deliveries_lane;
