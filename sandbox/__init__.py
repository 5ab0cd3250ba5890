"""An EHR in a box, for demo and tests: SMART authorization server, FHIR R4 server, chart pages.

All patients are synthetic. It stands alone and imports nothing of Quarterhour's other packages.
"""
